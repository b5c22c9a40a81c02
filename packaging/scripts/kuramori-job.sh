#!/bin/sh
# Tells Kuramori how a job of another backup product ended, or asks for the gate before it begins.
#
#   kuramori-job.sh post success|warning|failed [options]    after the job
#   kuramori-job.sh request [options]                        before the job: a wish, nothing more
#
#   --credentials FOLDER   what `kuramori system add … --credentials FOLDER` wrote (url, login, login.password, ca.pem)
#   --system ID            the system's name in Kuramori's register
#   --product NAME         veeam, arcserve, windows-server-backup or the vendor's name
#   --job NAME             the job's name in the product
#   --folder FOLDER        the backup's files: they are named with their sizes (without it no size is told)
#   --match PATTERN        only files of this name, for example '*.vbk' (may be repeated)
#   --message TEXT         the product's own words
#   --result FILE          write the result here as well (as its last step, under a new name and renamed)
#
# Needs curl and sha256sum for posting. The login can add to its own shelf and to nothing else; it cannot open
# the gate. Whether a wish is granted is decided at the vault.
set -eu

fail() { echo "kuramori-job: $*" >&2; exit 1; }
[ $# -ge 1 ] || fail "use: kuramori-job.sh post success|warning|failed … | request …"
verb=$1; shift
case $verb in
  post) [ $# -ge 1 ] || fail "how did the job end?"; state=$1; shift ;;
  request) state=request ;;
  *) fail "unknown verb '$verb'" ;;
esac
case $state in success | warning | failed | request) ;; *) fail "unknown state '$state'" ;; esac

credentials='' system='' product=other job='' folder='' message='' result=''
matches=''
while [ $# -gt 0 ]; do
  [ $# -ge 2 ] || fail "'$1' needs a value"
  case $1 in
    --credentials) credentials=$2 ;;
    --system) system=$2 ;;
    --product) product=$2 ;;
    --job) job=$2 ;;
    --folder) folder=$2 ;;
    --match) matches="$matches
$2" ;;
    --message) message=$2 ;;
    --result) result=$2 ;;
    *) fail "unknown option '$1'" ;;
  esac
  shift 2
done
[ -n "$system" ] || fail "--system is missing"
[ -n "$credentials$result" ] || fail "--credentials or --result is missing"

# A text as JSON: backslash, quote, tab and line ends escaped, other control characters dropped.
json() {
  printf '%s' "$1" | tr '\t\r\n' '   ' | tr -d '\000-\037' | sed 's/\\/\\\\/g; s/"/\\"/g; s/^/"/; s/$/"/'
  [ -n "$1" ] || printf '""'
}

work=$(mktemp -d); trap 'rm -rf "$work"' EXIT
total=0 first=1
: >"$work/files"
if [ -n "$folder" ]; then
  [ -d "$folder" ] || fail "'$folder' is not a folder"
  find "$folder" -maxdepth 1 -type f >"$work/list"
  while IFS= read -r file; do
    name=${file##*/}
    [ "$file" = "$result" ] && continue
    if [ -n "$matches" ]; then
      hit=0
      while IFS= read -r pattern; do
        # shellcheck disable=SC2254 # it is a pattern
        [ -n "$pattern" ] && case $name in $pattern) hit=1 ;; esac
      done <<EOM
$matches
EOM
      [ $hit = 1 ] || continue
    fi
    bytes=$(stat -c %s -- "$file")
    total=$((total + bytes))
    [ $first = 1 ] || printf ',' >>"$work/files"
    first=0
    printf '{"name":%s,"bytes":%s}' "$(json "$name")" "$bytes" >>"$work/files"
  done <"$work/list"
fi

{
  printf '{"format":"kuramori.job-result/1","system":%s,"product":%s,"job":%s,"state":"%s",' \
    "$(json "$system")" "$(json "$product")" "$(json "$job")" "$state"
  printf '"ended":"%s",' "$(date -u +%Y-%m-%dT%H:%M:%SZ)"
  # Without a folder nobody has measured anything: no size is told, which is not the same as 0.
  [ -z "$folder" ] || printf '"bytes":%s,' "$total"
  printf '"files":['
  cat "$work/files"
  printf '],"message":%s}\n' "$(json "$message")"
} >"$work/result.json"

if [ -n "$result" ]; then
  cp "$work/result.json" "$result.new"
  mv "$result.new" "$result"
fi
if [ -n "$credentials" ]; then
  digest=$(sha256sum <"$work/result.json"); digest=${digest%% *}
  # The password goes by a file, never by the command line, which every user of the machine can see.
  printf 'user = "%s:%s"\n' "$(cat "$credentials/login")" "$(cat "$credentials/login.password")" >"$work/curl"
  chmod 600 "$work/curl"
  curl --silent --show-error --fail --max-time 60 --retry 3 --config "$work/curl" --cacert "$credentials/ca.pem" \
    --header 'Content-Type: application/octet-stream' --data-binary "@$work/result.json" \
    "$(cat "$credentials/url")$digest" || fail "the result could not be posted"
fi
