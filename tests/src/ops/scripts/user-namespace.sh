# Root of a user namespace whose ids 0 to 999 are 100000 to 100999 outside.
chmod 755 .
mkdir inside
chown 100000:100000 inside
cd inside
unshare --user --map-users=0:100000:1000 --map-groups=0:100000:1000 --setuid 0 --setgid 0 bash -euc '
    [ "$(id -u)" = 0 ]
    head -c 30000 /dev/urandom > file
    chown 5:6 file
    mkdir dir
    chmod 2775 dir
    chown 7:8 dir
    echo x > dir/inherits
    setfacl -m u:9:rw dir/inherits
    setfattr -n user.by -v namespace dir/inherits
    cp /bin/true with-capability
    setcap cap_net_raw+ep with-capability
    mkfifo fifo
    ln file link
    mv link dir/link'
[ "$(stat -c %u:%g file)" = 100005:100006 ]
