#!/bin/sh
# Run by mmdebstrap between extraction and packing, with the tree as its argument: notes for scanners which packages are in
# it (as distroless images do), and takes out what no process in a container uses. Licences stay.
set -eu
tree=$1
packages=$tree/var/lib/dpkg/status.d
rm -rf "$tree/var/lib/dpkg" "$tree/var/lib/apt/extended_states"
mkdir -p "$packages"
for deb in "$tree"/var/cache/apt/archives/*.deb; do
    name=$(dpkg-deb --field "$deb" Package)
    case " $REMOVED_PACKAGES " in
    *" $name "*) # needed to install packages, not to run what is installed
        dpkg-deb --fsys-tarfile "$deb" | tar -t | sed 's|^\./||' | grep -v '/$' | (cd "$tree" && tr '\n' '\0' | xargs -0 rm -f)
        ;;
    *)
        dpkg-deb --field "$deb" > "$packages/$name"
        ;;
    esac
done
find "$tree/usr/share/doc" ! -type d ! -name copyright -delete
for directory in usr/share/man usr/share/locale usr/share/lintian usr/share/bug usr/share/info usr/share/pixmaps \
    usr/share/applications etc/cron.daily etc/logrotate.d etc/dpkg usr/share/dpkg usr/libexec/dpkg lib/systemd; do
    rm -rf "${tree:?}/$directory"
done
rm -rf "$tree/var/lib/apt" "$tree/var/cache/apt" "$tree/var/log"
find "$tree/etc/apt" -type f ! -name 00mmdebstrap -delete # that one mmdebstrap takes out itself
rm -f "$tree/etc/hostname" "$tree/etc/resolv.conf" "$tree/etc/fstab" # of the machine that builds
find "$tree/usr/share" "$tree/etc" "$tree/var" -depth -type d -empty -delete
mkdir -p "$tree/etc" "$tree/tmp"
chmod 1777 "$tree/tmp"
echo 'root:x:0:0:root:/:/sbin/nologin
nonroot:x:65532:65532:nonroot:/:/sbin/nologin' > "$tree/etc/passwd"
echo 'root:x:0:
nonroot:x:65532:' > "$tree/etc/group"
