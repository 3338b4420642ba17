# A machine of its own for a real systemd, in namespaces: systemd.sh BINARY DEPLOY OUT STEPS
# The program and its files are where a package would put them; the steps are run as a service, and what they say is
# in OUT.
set -e
binary=$1 deploy=$2 out=$3 steps=$4
root=$(mktemp -d)
mount -t tmpfs root "$root"
cd "$root"
mkdir -p usr proc sys dev run tmp var/lib var/log root etc/systemd/system etc/portcullis opt out old
mount --bind /usr usr
for folder in bin sbin lib lib64; do ln -s usr/$folder $folder; done
cp /etc/passwd /etc/group /etc/nsswitch.conf /etc/ld.so.cache etc/
: > etc/machine-id
: > etc/resolv.conf
echo machine > etc/hostname
mount -t proc proc proc
mount -t sysfs sys sys
mount -t tmpfs cgroup sys/fs/cgroup
mkdir sys/fs/cgroup/unified sys/fs/cgroup/systemd
mount -t cgroup2 cgroup sys/fs/cgroup/unified
mount -t cgroup -o none,name=systemd cgroup sys/fs/cgroup/systemd
mount --rbind /dev dev
mount -t tmpfs run run
mount -t tmpfs tmp tmp
mount --bind "$out" out
cp "$binary" opt/portcullis
cp "$steps" root/steps
cp "$deploy"/portcullis.service "$deploy"/portcullis.socket etc/systemd/system/
sed -i 's,/usr/bin/portcullis,/opt/portcullis,' etc/systemd/system/portcullis.service
cp "$deploy"/daemon.toml etc/portcullis/
cat > etc/systemd/system/steps.service <<'END'
[Unit]
DefaultDependencies=no
[Service]
Type=oneshot
Environment=PATH=/opt:/usr/bin:/usr/sbin
ExecStart=/bin/bash /root/steps
StandardOutput=file:/out/said
StandardError=file:/out/errors
ExecStopPost=/usr/bin/systemctl --force --force poweroff
END
pivot_root . old
umount -l old
exec env -i container=test /lib/systemd/systemd --system --unit=steps.service --log-target=console --show-status=0
