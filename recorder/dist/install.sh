#!/bin/sh
# Installs what lies beside this script on the running host, checks the host, starts what the configuration names.
# Usage: install.sh PREFIX, as root. Run again, it upgrades; an existing configuration is left as it is.
# Exit codes: 0 installed (and recording, if a volume is configured), 1 failed.
set -eu

prefix=$1
config=/etc/tapeworm.toml
units=/etc/systemd/system
from=$(dirname "$0")

say() { echo "$*" >&2; }
fail() { say "error: $*"; exit 1; }

[ "$(id -u)" = 0 ] || fail "this must run as root"
[ -d /run/systemd/system ] || fail "systemd does not run this host; only such hosts can be deployed to"

# Beside the final place first, then a rename: the programs may be in use.
for program in recorder replayer; do
    install -D -m 0755 "$from/$program" "$prefix/bin/.$program.new"
    mv -f "$prefix/bin/.$program.new" "$prefix/bin/$program"
    say "installed $prefix/bin/$program"
done

for unit in tapeworm.service tapeworm-rehearse@.service tapeworm-rehearse@.timer; do
    sed "s|@PREFIX@|$prefix|g" "$from/$unit" > "$units/$unit.new"
    chmod 0644 "$units/$unit.new"
    mv -f "$units/$unit.new" "$units/$unit"
    say "installed $units/$unit"
done

if [ -e "$config" ]; then
    say "kept $config as it is"
else
    install -m 0644 "$from/tapeworm.toml" "$config"
    say "installed $config, an example that records nothing yet"
fi
systemctl daemon-reload

say "asking recorder doctor whether this host can be recorded"
"$prefix/bin/recorder" doctor || fail "recorder doctor says no (exit code $?): installed, but not started"

if ! grep -q '^[[:space:]]*\[\[[[:space:]]*volume[[:space:]]*\]\]' "$config"; then
    say "$config names no volume: nothing is recorded. Edit it, then: systemctl enable --now tapeworm"
    exit 0
fi

say "starting tapeworm.service, now and at every boot"
systemctl enable --quiet tapeworm.service
show_journal() { journalctl --no-pager --lines 20 --unit tapeworm.service >&2 || true; }
# Returns when the programs are attached.
systemctl restart tapeworm.service || {
    show_journal
    fail "tapeworm.service did not start; see: journalctl -u tapeworm"
}
# A service that ends soon has been started too: ask whether it answers, for a while.
tries=60
until "$prefix/bin/recorder" status; do
    systemctl is-active --quiet tapeworm.service || {
        show_journal
        fail "tapeworm.service ended; see: journalctl -u tapeworm"
    }
    tries=$((tries - 1))
    [ "$tries" -gt 0 ] || fail "tapeworm.service runs, but recorder status has no answer from it"
    sleep 1
done
say "recording what $config names"
