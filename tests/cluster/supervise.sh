#!/usr/bin/env bash
# The parent of a cluster's components: does what component.sh and cluster.sh write to its pipe, a line at a time.
#
#   start NAME     runs $CLUSTER_RUN/components/NAME (a script that execs the program) and writes its id to pids/NAME
#   stop NAME      SIGTERM; kill NAME: SIGKILL. Both remove pids/NAME once the process is gone
#   exit           kills all and ends
#
# Every component dies with this process, and this one with cluster.sh, whatever ends them.
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

# Bash reports every child that was killed.
exec 2>>"$run/log/supervisor.log"
# Open for both ways, so that it never ends when a writer leaves.
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
      # The API server's clients first, or they fill their logs with its absence.
      for name in "${!pid[@]}"; do kill -KILL "${pid[$name]}" 2>/dev/null; done
      wait
      exit 0
      ;;
  esac
done
