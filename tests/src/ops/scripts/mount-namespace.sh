# A process in another mount namespace: first with the same root, then with the working directory as its root.
mkdir -p same root/bin root/lib root/lib64 root/usr
unshare --mount bash -euc '
    cd same
    mount --bind . .
    cd .
    head -c 70000 /dev/urandom > file
    mkdir dir
    mv file dir/file
    setfattr -n user.in-namespace -v yes dir/file
    truncate -s 3000 dir/file'
unshare --mount bash -euc '
    mount --bind root root
    cd root
    mount --bind /usr usr
    [ ! -L /lib64 ] || { rmdir lib lib64 bin; ln -s usr/lib lib; ln -s usr/lib64 lib64; ln -s usr/bin bin; }
    chroot . /usr/bin/bash -euc "
        echo from-inside > /file
        mkdir /dir
        mv /file /dir/file
        ln -s dir/file /link
        chmod 640 /dir/file
        rm /link"'
