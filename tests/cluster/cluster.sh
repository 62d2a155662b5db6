#!/usr/bin/env bash
# Runs a command with a Kubernetes cluster that exists only as long as the command runs.
#
#   cluster.sh [--image ARCHIVE]... [--logs FOLDER] CMD ARGS...     a node, in its own namespaces; as root
#   cluster.sh --control-plane [--logs FOLDER] CMD ARGS...          no node, so no pod runs; needs no root
#
# CMD finds KUBECONFIG (of a cluster admin), CLUSTER_RUN, and kubectl, helm, kubeconform and component.sh on PATH.
#
#   $CLUSTER_RUN/log/            every component's log
#   $CLUSTER_RUN/log/audit.log   the API server's audit log
#   $CLUSTER_RUN/volumes/        an empty folder for the data of local PersistentVolumes
#
# --image adds an OCI archive to the node's images; --logs copies the logs to a folder at the end.
set -euo pipefail
source "$(dirname "$0")/lib.sh"

usage() {
  sed -n '2,14s/^# \{0,1\}//p' "$0" >&2
  exit 64
}

level=node
images=()
logs=
arguments=("$@")
while [ $# -gt 0 ]; do
  case $1 in
    --control-plane) level=control-plane; shift ;;
    --image) [ -f "${2:-}" ] || die "--image ${2:-}: no such archive; run make images"
      images+=("$(realpath "$2")"); shift 2 ;;
    --logs) logs=$(realpath -m "${2:?--logs needs a folder}"); shift 2 ;;
    --) shift; break ;;
    -*) usage ;;
    *) break ;;
  esac
done
[ $# -gt 0 ] || usage

# as_child COMMAND...: runs it so that a SIGTERM to this shell can be passed on at once
child=
as_child() {
  # A background process would ignore Ctrl-C and have no terminal.
  env --default-signal=INT,QUIT "$@" <&0 &
  child=$!
  status=0
  while kill -0 "$child" 2>/dev/null; do
    # wait returns early, with another status, when a signal arrives.
    wait "$child" && status=0 || status=$?
  done
}
trap : INT

milliseconds() { echo $((${EPOCHREALTIME/./} / 1000)); }
started=${CLUSTER_STARTED:-$(milliseconds)}
milestone() { log "$1 after $(($(milliseconds) - started)) ms"; }

# ================================================================================================ outside the namespaces
cgroup_folders() { # of this cluster, in every mounted hierarchy
  awk '$3 == "cgroup" || $3 == "cgroup2" {print $2}' /proc/self/mounts | while read -r mounted; do
    echo "$mounted/$cgroup"
  done
}

remove_cgroups() {
  local folder tries
  for folder in $(cgroup_folders); do
    [ -d "$folder" ] || continue
    # The kernel removes a killed process with a delay.
    for tries in {1..100}; do
      find "$folder" -depth -type d -exec rmdir {} + 2>/dev/null && break
      sleep 0.05
    done
    [ ! -d "$folder" ] || log "error: cannot remove $folder"
  done
}

# Removes what a killed cluster.sh left behind. A live one holds its lock.
sweep() {
  local folder lock
  for folder in "$cache"/run/*/; do
    [ -f "$folder/lock" ] || continue
    exec {lock}<"$folder/lock"
    if flock --nonblock "$lock"; then
      cgroup=stic-$(basename "$folder")
      [ "$(id -u)" != 0 ] || remove_cgroups
      rm -rf "$folder" 2>/dev/null || true
    fi
    exec {lock}<&-
  done
}

if [ -z "${CLUSTER_INNER:-}" ]; then
  build=()
  [ $level = node ] || build+=(--control-plane)
  "$here/build.sh" "${build[@]}" >/dev/null
  started=$(milliseconds)
  mkdir -p "$cache/run"
  # Under a lock: a new folder whose lock does not exist yet would look like an abandoned one.
  exec 7>"$cache/run.lock"
  flock 7
  sweep
  run=$(mktemp -d "$cache/run/XXXXXXXX")
  chmod 755 "$run"
  exec 9>"$run/lock"
  flock 9
  exec 7>&-
  cgroup=stic-$(basename "$run")
  finish() {
    [ -z "$logs" ] || { mkdir -p "$logs" && cp -r "$run/log/." "$logs/"; } || true
    [ $level = control-plane ] || remove_cgroups
    rm -rf "$run"
  }
  trap finish EXIT
  # Passes SIGTERM to the inner shell, which passes it to CMD. With a node that is the child of unshare, which ignores signals.
  forward() {
    # shellcheck disable=SC2046 # ids are words
    kill -TERM $([ $level = node ] && cat "/proc/$child/task/$child/children" || echo "$child") 2>/dev/null || true
  }
  trap forward TERM HUP
  frame=(setpriv --pdeathsig KILL)
  if [ $level = node ]; then
    [ "$(id -u)" = 0 ] || die "a node needs root: run it as root, or use --control-plane, which needs none"
    frame+=(unshare --net --mount --pid --fork --kill-child=SIGKILL --mount-proc)
  fi
  as_child CLUSTER_INNER=1 CLUSTER_STARTED="$started" CLUSTER_RUN="$run" CLUSTER_CGROUP="$cgroup" \
    "${frame[@]}" bash "$0" "${arguments[@]}"
  exit $status
fi

# ============================================================================================== inside the namespaces
run=$CLUSTER_RUN
cgroup=$CLUSTER_CGROUP
unset CLUSTER_INNER CLUSTER_STARTED CLUSTER_CGROUP
back=$PWD
export PATH=$bin:$PATH:/usr/sbin:/sbin
mkdir -p "$run"/{pki,log,pids,components,kubeconfig,volumes,bin,home}
chmod 700 "$run/pki" "$run/kubeconfig"
ln -s "$here/component.sh" "$run/bin/component.sh"

# --- addresses --------------------------------------------------------------------------------------------------
# Ports outside the range of outgoing connections, each with a lock that is held as long as the cluster lives, so that two
# clusters never choose the same ones.
listening() { (exec 7<>"/dev/tcp/127.0.0.1/$1") 2>/dev/null; }
free_ports() {
  local base lock port taken
  mkdir -p "$cache/ports"
  for ((base = 21000; base < 32000; base += 10)); do
    exec {lock}>"$cache/ports/$base"
    if flock --nonblock "$lock"; then
      taken=no
      for ((port = base; port < base + 5; port++)); do ! listening $port || taken=yes; done
      if [ $taken = no ]; then
        etcd_port=$base etcd_peer_port=$((base + 1)) api_port=$((base + 2))
        manager_port=$((base + 3)) scheduler_port=$((base + 4))
        return
      fi
    fi
    exec {lock}>&-
  done
  die "no free ports between 21000 and 32000"
}
if [ $level = node ]; then
  address=10.88.0.1
  etcd_port=2379 etcd_peer_port=2380 api_port=6443 manager_port=10257 scheduler_port=10259
else
  address=127.0.0.1
  free_ports
fi

# --- a private view of the folders that a node's programs write to ---------------------------------------------------
if [ $level = node ]; then
  mount --make-rprivate /
  for folder in "$back" "$cache"; do
    case $folder/ in /var/lib/* | /var/log/* | /run/*)
      die "$folder is inside a folder that the node hides; change to another folder, or set STIC_CACHE" ;;
    esac
  done
  mount -t tmpfs -o mode=755 tmpfs /run
  mkdir "$run/cover"
  mount -t tmpfs tmpfs "$run/cover"
  for folder in /var/lib /var/log; do
    mkdir -p "$run/cover$folder"/{upper,work}
    mount -t overlay overlay -o "lowerdir=$folder,upperdir=$run/cover$folder/upper,workdir=$run/cover$folder/work" $folder
  done
  mkdir -p /var/lib/kubelet /var/log/containers
  mount -t tmpfs tmpfs /var/lib/kubelet
  # The kubelet sets these for the whole machine unless they already have the value.
  mkdir "$run/sysctl"
  for setting in vm/overcommit_memory=1 vm/panic_on_oom=0 kernel/panic=10 kernel/panic_on_oops=1 \
    kernel/keys/root_maxkeys=1000000 kernel/keys/root_maxbytes=25000000; do
    file=$run/sysctl/$(tr / . <<<"${setting%=*}")
    echo "${setting#*=}" >"$file"
    mount --bind "$file" "/proc/sys/${setting%=*}"
  done
  mount --make-rshared /
  ip link set lo up
  ip link add cni0 type bridge
  ip address add $address/16 dev cni0
  ip link set cni0 up
  ip route add default dev cni0
  echo 1 >/proc/sys/net/ipv4/ip_forward
fi

# --- identities ---------------------------------------------------------------------------------------------------
new_key() { openssl ecparam -name prime256v1 -genkey -noout -out "$1" 2>/dev/null; }
certificate() { # NAME SUBJECT ALTERNATIVE-NAMES
  new_key "$1.key"
  openssl req -new -key "$1.key" -subj "$2" -out "$1.csr" 2>/dev/null
  openssl x509 -req -in "$1.csr" -CA ca.crt -CAkey ca.key -CAcreateserial -days 30 -out "$1.crt" 2>/dev/null \
    -extfile <(printf 'subjectAltName=%s\nextendedKeyUsage=serverAuth,clientAuth\n' "$3")
}
identity() { # FILE USER ID [GROUP]
  local token
  token=$(head -c 16 /dev/urandom | od -An -tx1 | tr -d ' \n')
  echo "$token,$2,$3${4:+,\"$4\"}" >>tokens.csv
  cat >"$run/kubeconfig/$1" <<K
apiVersion: v1
kind: Config
clusters: [{name: cluster, cluster: {server: "https://$address:$api_port", certificate-authority-data: $(base64 -w0 ca.crt)}}]
users: [{name: user, user: {token: $token}}]
contexts: [{name: cluster, context: {cluster: cluster, user: user}}]
current-context: cluster
K
}
cd "$run/pki"
new_key ca.key
openssl req -x509 -key ca.key -subj /CN=test-cluster -days 30 -out ca.crt 2>/dev/null
new_key service-accounts.key
certificate apiserver /CN=kube-apiserver "IP:127.0.0.1,IP:$address,IP:10.96.0.1,DNS:localhost,DNS:kubernetes.default.svc"
certificate kubelet /CN=kubelet "IP:127.0.0.1,IP:$address,DNS:node"
certificate kubelet-client /O=system:masters/CN=kube-apiserver-kubelet-client DNS:localhost
: >tokens.csv
identity admin admin 1 system:masters
identity controller-manager system:kube-controller-manager 2
identity scheduler system:kube-scheduler 3
identity kubelet system:node:node 4 system:nodes
identity proxy system:kube-proxy 5

# --- components ---------------------------------------------------------------------------------------------------
mkfifo "$run/control"
setsid setpriv --pdeathsig KILL bash "$here/supervise.sh" "$run" 9>&- &
supervisor=$!
finish() {
  echo exit >"$run/control"
  wait "$supervisor" 2>/dev/null || true
}
trap finish EXIT
# Before CMD runs there is no child to pass it to.
trap '[ -n "$child" ] && kill -TERM "$child" 2>/dev/null || exit 143' TERM HUP

# Trades memory for CPU time: at the default, garbage collection takes a quarter of the API server's time.
component() { # NAME COMMAND...
  local name=$1
  shift
  { echo '#!/bin/bash'; echo 'export GOGC=300'; printf 'exec'; printf ' %q' "$@"; echo; } >"$run/components/$name"
  chmod +x "$run/components/$name"
  CLUSTER_RUN=$run "$here/component.sh" start "$name"
}

# until_true NAME SECONDS COMMAND...: waits for COMMAND while component NAME lives
until_true() {
  local name=$1 deadline=$((SECONDS + $2))
  shift 2
  until "$@" >/dev/null 2>&1; do
    if ! kill -0 "$(cat "$run/pids/$name")" 2>/dev/null || [ $SECONDS -gt $deadline ]; then
      tail -n 20 "$run/log/$name.log" >&2
      die "$name did not become ready"
    fi
    sleep 0.1
  done
}

cat >"$run/audit-policy.yaml" <<'P'
apiVersion: audit.k8s.io/v1
kind: Policy
omitStages: [RequestReceived]
rules: [{level: Metadata}]
P
export KUBECONFIG=$run/kubeconfig/admin

# Nothing outlives a test cluster, so nothing needs to reach the disk.
component etcd etcd --data-dir "$run/etcd" --unsafe-no-fsync --log-level warn \
  --listen-client-urls "http://127.0.0.1:$etcd_port" --advertise-client-urls "http://127.0.0.1:$etcd_port" \
  --listen-peer-urls "http://127.0.0.1:$etcd_peer_port" --initial-advertise-peer-urls "http://127.0.0.1:$etcd_peer_port" \
  --initial-cluster "default=http://127.0.0.1:$etcd_peer_port"

apiserver=(kube-apiserver --etcd-servers "http://127.0.0.1:$etcd_port"
  --secure-port "$api_port" --advertise-address "$address"
  --tls-cert-file "$run/pki/apiserver.crt" --tls-private-key-file "$run/pki/apiserver.key" --cert-dir "$run/pki"
  --client-ca-file "$run/pki/ca.crt" --token-auth-file "$run/pki/tokens.csv"
  --service-account-issuer https://kubernetes.default.svc
  --service-account-signing-key-file "$run/pki/service-accounts.key"
  --service-account-key-file "$run/pki/service-accounts.key"
  --authorization-mode Node,RBAC --enable-admission-plugins NodeRestriction
  --service-cluster-ip-range 10.96.0.0/16 --allow-privileged=true
  --audit-log-path "$run/log/audit.log" --audit-log-maxsize 10000 --audit-policy-file "$run/audit-policy.yaml")
if [ $level = node ]; then
  # All addresses of its own network namespace, because pods reach it over the bridge.
  apiserver+=(--bind-address 0.0.0.0 --kubelet-preferred-address-types InternalIP
    --kubelet-client-certificate "$run/pki/kubelet-client.crt" --kubelet-client-key "$run/pki/kubelet-client.key")
else
  # A loopback address is not allowed as an endpoint, and without pods nothing uses one.
  apiserver+=(--bind-address 127.0.0.1 --endpoint-reconciler-type none)
fi
component kube-apiserver "${apiserver[@]}"
until_true kube-apiserver 300 kubectl get --raw /readyz
milestone "the API server answers"

# A suite creates more objects per second than a cluster of this size usually sees: with the default limits these would lag by
# minutes.
faster=(--kube-api-qps 2000 --kube-api-burst 2000)
component kube-controller-manager kube-controller-manager "${faster[@]}" --kubeconfig "$run/kubeconfig/controller-manager" \
  --authentication-kubeconfig "$run/kubeconfig/controller-manager" \
  --authorization-kubeconfig "$run/kubeconfig/controller-manager" \
  --bind-address 127.0.0.1 --secure-port "$manager_port" --cert-dir "$run/pki/controller-manager" --leader-elect=false \
  --use-service-account-credentials --service-account-private-key-file "$run/pki/service-accounts.key" \
  --root-ca-file "$run/pki/ca.crt" --cluster-signing-cert-file "$run/pki/ca.crt" \
  --cluster-signing-key-file "$run/pki/ca.key" --node-monitor-grace-period 20s
component kube-scheduler kube-scheduler "${faster[@]}" --kubeconfig "$run/kubeconfig/scheduler" \
  --authentication-kubeconfig "$run/kubeconfig/scheduler" --authorization-kubeconfig "$run/kubeconfig/scheduler" \
  --bind-address 127.0.0.1 --secure-port "$scheduler_port" --cert-dir "$run/pki/scheduler" --leader-elect=false
[ $level = control-plane ] || source "$here/node.sh"
until_true kube-controller-manager 300 kubectl --namespace default get serviceaccount default
milestone "the cluster is ready"

# --- the command ----------------------------------------------------------------------------------------------------
export CLUSTER_RUN=$run PATH=$run/bin:$PATH
# Keeps the caches of kubectl and helm out of the user's home.
export KUBECACHEDIR=$run/home/kube HELM_CACHE_HOME=$run/home/helm HELM_CONFIG_HOME=$run/home/helm HELM_DATA_HOME=$run/home/helm
cd "$back"
# CMD dies with this shell, however that ends.
as_child setpriv --pdeathsig KILL "$@" 9>&-
exit $status
