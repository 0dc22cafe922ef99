#!/bin/bash
# dpkg: real packages installed into a root, installed again as newer versions, removed, purged.
set -eu
# Only packages without scripts: those would want a whole system in that root.
names=()
while read -r name; do
    compgen -G "/var/lib/dpkg/info/$name.p*" > /dev/null || compgen -G "/var/lib/dpkg/info/$name:*.p*" > /dev/null || names+=("$name")
done < <(dpkg-query -W -f '${Installed-Size} ${Package}\n' | sort -n | awk '$1 > 100 && $1 < 9000 {print $2}')
names=("${names[@]:0:16}")
[ ${#names[@]} = 16 ]

mkdir -p debs newer root/var/lib/dpkg
touch root/var/lib/dpkg/status
# Without what they depend on, and without the essential ones' protection.
in_root() { dpkg --root=root --force-all "$@" > dpkg.log 2>&1 || { tail -n 5 dpkg.log; exit 1; }; }
(cd debs && dpkg-repack "${names[@]}" > ../repack.log 2>&1)
in_root -i debs/*.deb
MARK installed

for deb in debs/*.deb; do
    rm -rf work && dpkg-deb -R "$deb" work
    sed -i 's/^Version: .*/&+newer/' work/DEBIAN/control
    find work -type f -not -path '*/DEBIAN/*' | sort | sed -n '2~5p' | while read -r file; do echo newer >> "$file"; done
    dpkg-deb -b work "newer/$(basename "$deb")" > /dev/null
done
rm -r work
in_root -i newer/*.deb
MARK newer

in_root -r "${names[@]:0:6}"
in_root -P "${names[@]:4:6}"
MARK removed
in_root -i debs/*.deb
dpkg --root=root --audit > audit.log
