#!/bin/bash
# dbench: the file operations of an office's file server, several clients at once, also synced and with extended attributes.
set -eu
load=$(dpkg -L dbench | grep '/client\.txt')
mkdir plain synced attributes
dbench -c "$load" -D plain --skip-cleanup -t 15 4 > /tmp/dbench.log
MARK plain
dbench -c "$load" -D synced --skip-cleanup -s -F -t 8 2 > /tmp/dbench.log
MARK synced
dbench -c "$load" -D attributes --skip-cleanup -x -t 8 3 > /tmp/dbench.log
rm -r plain
