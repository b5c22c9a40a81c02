#!/bin/sh
# Before and after the backup of a Samba domain controller; run by the agent, as root, see docs/sources.md.
#   kuramori-samba-ad.sh make FOLDER [SMB.CONF]   FOLDER/samba-backup-….tar.bz2, whole or not at all
#   kuramori-samba-ad.sh remove FOLDER            takes it away again: it holds every password's keys
# FOLDER belongs to this script alone and must lie outside the controller's own folders.
set -eu
umask 077
PATH=/usr/sbin:/usr/bin:/sbin:/bin
export PATH

fail() {
  echo "kuramori-samba-ad: $1" >&2
  exit 1
}

verb=${1:-} folder=${2:-} conf=${3:-/etc/samba/smb.conf}
case $folder in
/*/*) ;;
*) fail "usage: make|remove FOLDER [SMB.CONF], with a FOLDER of its own and its whole path" ;;
esac

remove() {
  rm -f -- "$folder"/samba-backup-*.tar.bz2
  rm -rf -- "$folder"/INCOMPLETEsambabackupfile*
}

case $verb in
remove)
  remove
  ;;
make)
  mkdir -p -- "$folder"
  chmod 700 -- "$folder"
  remove
  # Samba copies each database under its own lock, so the controller goes on working.
  said=$(samba-tool domain backup offline --targetdir="$folder" --configfile="$conf" 2>&1) ||
    fail "samba-tool: $(printf '%s\n' "$said" | tail -n 3)"
  set -- "$folder"/samba-backup-*.tar.bz2
  [ $# -eq 1 ] && [ -s "$1" ] || fail "samba-tool made no backup"
  # Read once from end to end: what cannot be unpacked is no backup.
  list=$(/usr/bin/python3 -m tarfile -l "$1" 2>&1) || fail "the backup cannot be unpacked: $1"
  for part in backup.txt sysvol.tar.gz etc/smb.conf private/sam.ldb private/secrets.ldb; do
    printf '%s\n' "$list" | grep -qxF -e "$part" -e "$part " || fail "the backup has no $part"
  done
  ;;
*)
  fail "usage: make|remove FOLDER [SMB.CONF]"
  ;;
esac
