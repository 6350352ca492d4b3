# Tries the options that the strict rules use; some tools take them and do something else.
imgforge_probe=$(mktemp -d) && cd "$imgforge_probe" || exit 1
bash -c 'shopt -u failglob && [[ a == a ]]' &&
setpriv --reuid=65534 --regid=65534 --clear-groups --no-new-privs true &&
: >a && sleep 0.02 && : >b && mkdir d &&
[ "$(find . -xdev -path ./d -prune -o ! -type d -cnewer a -print0 | LC_ALL=C sort -z |
    LC_ALL=C comm -z - /dev/null | sed -z 's,^\./,A ,' | tr '\0' /)" = 'A b/' ] &&
[ "$(find . -xdev -depth -user "$(id -u)" ! -perm -002 -name a -printf '%f\0' |
    xargs -0r printf '%s.')" = a. ] &&
printf 'a\0b\0' | grep -qzxF -- a &&
! printf 'aa\0b\0' | grep -qzxF -- a &&
printf 'a\n' | grep -qxF -- a &&
find . -name b -delete && [ ! -e b ] &&
chown -h 0:0 a && cp -a a c && [ -e c ] &&
cd / && rm -rf "$imgforge_probe"
