# second-kernel-jobs.sh EXCHANGE
# Runs each job whose id comes in on the serial line, several at a time. A job is a folder: `argv` (words, each ended by a
# zero byte) and `stdin` go in, `stdout`, `stderr` and `code` come out.
stty -F /dev/ttyS0 raw -echo
exec 3<>/dev/ttyS0 </dev/null
# Makes the device nodes, as on any host.
/lib/systemd/systemd-udevd --daemon 2>/dev/null
udevadm settle
run() {
  local job=$1/jobs/$2 argv
  mapfile -d '' -t argv <"$job/argv"
  "${argv[@]}" <"$job/stdin" >"$job/stdout" 2>"$job/stderr" 3>&-
  echo $? >"$job/code"
  echo "done $2" >&3
}
echo ready >&3
while read -r -u 3 id; do
  if [ "$id" = poweroff ]; then
    sync
    echo o >/proc/sysrq-trigger
    sleep 60
  fi
  run "$1" "$id" &
done
