#!/usr/bin/env bash
# The parent of a cluster's components. Reads commands from its pipe, one per line, which component.sh and cluster.sh write.
#
#   start NAME     runs $CLUSTER_RUN/components/NAME (a script that execs the program) and writes its process id to pids/NAME
#   stop NAME      sends SIGTERM, and removes pids/NAME once the process is gone
#   kill NAME      the same with SIGKILL
#   exit           kills all components and exits
#
# Every component dies with this process, and this process with cluster.sh, however they end.
set -uo pipefail
run=$1
declare -A pid=()

end() { # SIGNAL NAME
  [ -n "${pid[$2]:-}" ] || return 0
  kill -"$1" "${pid[$2]}" 2>/dev/null
  wait "${pid[$2]}" 2>/dev/null
  unset "pid[$2]"
  rm -f "$run/pids/$2"
}

# Bash reports every killed child on stderr.
exec 2>>"$run/log/supervisor.log"
# Opened for reading and writing, so that it does not reach its end when a writer closes it.
exec 3<>"$run/control"
while read -r command name <&3; do
  case $command in
    start)
      end KILL "$name"
      setpriv --pdeathsig KILL "$run/components/$name" >>"$run/log/$name.log" 2>&1 3<&- </dev/null &
      pid[$name]=$!
      echo $! >"$run/pids/$name.new"
      mv "$run/pids/$name.new" "$run/pids/$name"
      ;;
    stop) end TERM "$name" ;;
    kill) end KILL "$name" ;;
    exit)
      # All at once: the API server's clients would fill their logs with errors.
      for name in "${!pid[@]}"; do kill -KILL "${pid[$name]}" 2>/dev/null; done
      wait
      exit 0
      ;;
  esac
done
