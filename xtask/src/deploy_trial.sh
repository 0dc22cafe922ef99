#!/bin/bash
# The trial of deploy, in a guest that runs Debian with systemd. Says what it does; ends with 0 only if all held.
set -u
trial=/opt/trial
config=/etc/tapeworm.toml
. $trial/lib.sh

fail() {
    echo "trial: $*" >&2
    journalctl --no-pager --lines 40 --unit tapeworm.service >&2
    exit 1
}
step() { echo "trial: $*" >&2; }
deploy() { "$trial/xtask" deploy --bin-dir "$trial/bin" "$@"; }

step "a host that has nothing yet"
deploy || fail "deploy to an untouched host ended with $?"
[ -x /usr/local/bin/recorder ] && [ -x /usr/local/bin/replayer ] || fail "a binary is missing"
systemctl is-enabled --quiet tapeworm.service && fail "the service is enabled though no volume is configured"
systemctl is-active --quiet tapeworm.service && fail "the service runs though no volume is configured"

step "a file system to record, a medium, a configuration that names them"
mkdir -p /srv /media/tape0 /root/.ssh
mkfs.ext4 -q -F /dev/guest/origin && mount /dev/guest/origin /srv || fail "cannot mount the origin"
mkfs.ext4 -q -F /dev/guest/medium && mount /dev/guest/medium /media/tape0 || fail "cannot mount the medium"
cp -a /usr/share/perl5 /srv/before
printf '[[volume]]\npath = "/srv"\nmedium = "/media/tape0"\nspool = "/var/lib/tapeworm/spool"\n' > $config
sum=$(sha256sum < $config)

step "the same host again, this time over ssh"
ssh-keygen -q -t ed25519 -N '' -f /root/.ssh/id_ed25519 || fail "cannot make a key"
cat /root/.ssh/id_ed25519.pub > /root/.ssh/authorized_keys
ssh-keygen -A > /dev/null
systemctl start ssh.service || fail "cannot start sshd"
ip link set lo up
ssh-keyscan -T 20 127.0.0.1 > /root/.ssh/known_hosts 2> /dev/null
deploy --host root@127.0.0.1 || fail "deploy over ssh ended with $?"
[ "$sum" = "$(sha256sum < $config)" ] || fail "deploy changed an existing configuration"
systemctl is-active --quiet tapeworm.service || fail "the service does not run"
systemctl is-enabled --quiet tapeworm.service || fail "the service does not come back at boot"

step "what the service manager hears"
[ "$(systemctl show --value -p Type tapeworm.service)" = notify ] || fail "the service does not say when it is ready"
systemctl show --value -p StatusText tapeworm.service | grep -q '/srv' || fail "the service says no status"
[ "$(systemctl show --value -p WatchdogTimestampMonotonic tapeworm.service)" -gt 0 ] || fail "the watchdog is not fed"
for i in $(seq 1 60); do recorder check > /tmp/check && break; sleep 1; done
cat /tmp/check >&2
grep -q 'nothing is to be done' /tmp/check || fail "recorder check is not content"

step "a thread that stands still: it is said within half a minute, and the watchdog starts the service anew"
mkdir -p /run/systemd/system/tapeworm.service.d
printf '[Service]\nWatchdogSec=10\n' > /run/systemd/system/tapeworm.service.d/trial.conf
systemctl daemon-reload && systemctl restart tapeworm.service || fail "the service does not start anew"
pid=$(systemctl show --value -p MainPID tapeworm.service)
thread=$(threads $pid | grep " drain$" | cut -d " " -f 1)
[ -n "$thread" ] || fail "there is no thread drain"
freeze "$thread"
for i in $(seq 1 60); do
    sleep 1
    recorder check --nagios > /tmp/check 2>&1
    grep -q 'drain has not moved' /tmp/check && break
done
cat /tmp/check >&2
[ "$i" -le 30 ] || fail "a thread that stands still is said after $i s"
for i in $(seq 1 60); do
    [ "$(systemctl show --value -p NRestarts tapeworm.service)" -gt 0 ] && systemctl is-active --quiet tapeworm.service && break
    sleep 1
done
systemctl show -p NRestarts,Result tapeworm.service >&2
[ "$(systemctl show --value -p NRestarts tapeworm.service)" = 1 ] || fail "the watchdog did not start the service anew"
journalctl --no-pager --unit tapeworm.service | grep -q 'watchdog' || fail "nobody speaks of the watchdog"
journalctl --no-pager --unit tapeworm.service -p err -o cat | grep -q 'drain has not moved' || fail "the journal has no error of the stall"
journalctl --no-pager --unit tapeworm.service | grep -q 'going on after seq' || fail "it did not go on where it was"
rm -r /run/systemd/system/tapeworm.service.d && systemctl daemon-reload

step "work on the recorded file system"
cp -a /usr/share/perl5 /srv/after
rm -r /srv/before
echo changed > /srv/file && mv /srv/file /srv/moved && chmod 0600 /srv/moved
recorder flush --wait >&2 || fail "recorder flush ended with $?"
systemctl stop tapeworm.service || fail "the service does not stop"

step "what was recorded, restored"
replayer verify --medium /media/tape0 >&2 || fail "replayer verify ended with $?"
mkdir -p /var/tmp/restored
replayer restore --medium /media/tape0 --to /var/tmp/restored >&2 || fail "replayer restore ended with $?"
"$trial/bin/oracle" digest /srv --out /tmp/live >&2 || fail "oracle ended with $?"
"$trial/bin/oracle" digest /var/tmp/restored --out /tmp/restored >&2 || fail "oracle ended with $?"
"$trial/bin/oracle" compare /tmp/live /tmp/restored >&2 || fail "the restored tree differs"
step "a restore is rehearsed, by the timer that deploy has installed"
rm -r /var/tmp/restored
name=$(systemd-escape --path /media/tape0)
systemctl enable --quiet --now tapeworm-rehearse@$name.timer || fail "the timer does not start"
systemctl list-timers --all | grep -q "tapeworm-rehearse@" || fail "nobody knows of the timer"
systemctl start tapeworm-rehearse@$name.service || fail "the rehearsal failed"
journalctl --no-pager -o cat --unit tapeworm-rehearse@$name.service >&2
[ -z "$(ls -d /var/tmp/tapeworm-rehearsal-* 2> /dev/null)" ] || fail "the rehearsal left something"
systemctl start tapeworm.service || fail "the service does not start again"
for i in $(seq 1 60); do recorder status > /tmp/status 2>&1 && grep -q ': the same, ' /tmp/status && break; sleep 1; done
grep -q ': the same, ' /tmp/status || { cat /tmp/status >&2; fail "recorder status does not tell of the rehearsal"; }

step "all held"
