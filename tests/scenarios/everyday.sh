#!/bin/bash
# What people do to a tree all day: names, links, attributes, also under several writers, with marks on the way.
set -eu

mkdir -p docs/{letters,drafts} bin
for i in $(seq 1 60); do printf 'letter %d\n' "$i" > "docs/letters/$i.txt"; done
cp -a /usr/share/perl5/. bin/
MARK copied

mv docs/letters/1.txt docs/drafts/one.txt
mv -T docs/drafts docs/letters/drafts
ln docs/letters/2.txt second && ln -s docs/letters/3.txt third && ln -s /nowhere/at/all dangling
mkfifo pipe && mknod null c 1 3
printf 'new content' > replaced.tmp && mv replaced.tmp docs/letters/4.txt
name=$(printf 'odd \xff\n name') && echo odd > "$name"
rm docs/letters/{10..20}.txt && rm -r bin/unicore 2> /dev/null || true
MARK moved

chmod 0640 docs/letters/5.txt && chown 1234:4321 docs/letters/6.txt && chmod 2775 docs
touch -d '2001-02-03 04:05:06.123456789 UTC' docs/letters/7.txt && touch -h -d '1999-01-01 UTC' third
setfattr -n user.colour -v blue docs/letters/8.txt
setfattr -n user.gone -v soon docs/letters/8.txt && setfattr -x user.gone docs/letters/8.txt
setfacl -m u:1234:rw docs/letters/9.txt && setfacl -d -m g:4321:rx docs
echo inherits > docs/child
MARK attributes

for w in 1 2 3 4; do
    (mkdir "w$w"; for i in $(seq 1 100); do
        echo "$w $i" > "w$w/$i"; echo more >> "w$w/$i"
        [ $((i % 3)) = 0 ] && mv "w$w/$i" "w$w/m$i"
        [ $((i % 5)) = 0 ] && rm -f "w$w/$i"
        echo "$w $i" >> shared.log
    done; true) &
done
wait
