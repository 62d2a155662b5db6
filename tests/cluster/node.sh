# Sourced by cluster.sh: starts container runtime, kubelet and kube-proxy, and imports images.

mkdir -p "$run"/{containerd/cni,kubelet,pod-logs}
: >"$run/resolv.conf"
# A separate branch in every hierarchy, so that two nodes on one machine do not remove each other's pods.
for folder in $(cgroup_folders); do
  mkdir -p "$folder"
  if [ -f "$folder/cgroup.subtree_control" ] && [[ $folder != */unified/* ]]; then
    # cgroup v2: a controller works below a folder only if the folder delegates it.
    for controller in $(cat "$folder/cgroup.controllers"); do
      echo "+$controller" >"$folder/cgroup.subtree_control"
    done
    for controller in cpu memory pids; do
      grep -qw $controller "$folder/cgroup.controllers" ||
        die "${folder%/*} does not delegate the $controller controller; as root, run: echo +$controller >${folder%/*}/cgroup.subtree_control"
    done
  fi
  # cgroup v1: a new cpuset is empty, and no process can enter an empty one.
  for file in cpuset.cpus cpuset.mems; do
    if [ -f "$folder/$file" ] && [ -z "$(cat "$folder/$file")" ]; then cat "${folder%/*}/$file" >"$folder/$file"; fi
  done
done

cat >"$run/containerd/config.toml" <<T
version = 3
root = "$run/containerd/root"
state = "$run/containerd/state"
disabled_plugins = ["io.containerd.nri.v1.nri", "io.containerd.snapshotter.v1.devmapper", "io.containerd.tracing.processor.v1.otlp"]
[grpc]
  address = "$run/containerd/socket"
[ttrpc]
  address = "$run/containerd/socket.ttrpc"
[plugins.'io.containerd.cri.v1.images'.pinned_images]
  sandbox = "stic.dev/pause:cluster"
[plugins.'io.containerd.cri.v1.runtime']
  # If the cluster itself runs in a container, it may not lower the score.
  restrict_oom_score_adj = true
  [plugins.'io.containerd.cri.v1.runtime'.containerd.runtimes.runc]
    runtime_type = "io.containerd.runc.v2"
    [plugins.'io.containerd.cri.v1.runtime'.containerd.runtimes.runc.options]
      SystemdCgroup = false
  [plugins.'io.containerd.cri.v1.runtime'.cni]
    bin_dirs = ["/usr/lib/cni"]
    conf_dir = "$run/containerd/cni"
[plugins.'io.containerd.grpc.v1.cri']
  stream_server_address = "127.0.0.1"
T
cat >"$run/containerd/cni/10-bridge.conflist" <<T
{
  "cniVersion": "1.0.0",
  "name": "pods",
  "plugins": [
    {
      "type": "bridge", "bridge": "cni0", "isGateway": false, "ipMasq": false,
      "ipam": {
        "type": "host-local", "dataDir": "$run/ipam",
        "ranges": [[{"subnet": "10.88.0.0/16", "rangeStart": "10.88.1.0", "gateway": "$address"}]],
        "routes": [{"dst": "0.0.0.0/0", "gw": "$address"}]
      }
    },
    {"type": "loopback"}
  ]
}
T
cat >"$run/kubelet.yaml" <<T
apiVersion: kubelet.config.k8s.io/v1beta1
kind: KubeletConfiguration
tlsCertFile: $run/pki/kubelet.crt
tlsPrivateKeyFile: $run/pki/kubelet.key
authentication: {anonymous: {enabled: false}, webhook: {enabled: true}, x509: {clientCAFile: $run/pki/ca.crt}}
authorization: {mode: Webhook}
cgroupDriver: cgroupfs
cgroupRoot: /$cgroup
failCgroupV1: false
failSwapOn: false
containerRuntimeEndpoint: unix://$run/containerd/socket
podLogsDir: $run/pod-logs
volumePluginDir: $run/kubelet/volume-plugins
resolvConf: $run/resolv.conf
# Nothing is evicted or garbage-collected when a test machine's disk is nearly full.
evictionHard: {memory.available: 100Mi, nodefs.available: 1%, imagefs.available: 1%}
imageGCHighThresholdPercent: 99
imageGCLowThresholdPercent: 98
syncFrequency: 5s
nodeStatusUpdateFrequency: 5s
T

component containerd containerd --config "$run/containerd/config.toml"
until_true containerd 300 ctr --address "$run/containerd/socket" version
for archive in "$cache/images/pause.tar" "${images[@]}"; do
  ctr --address "$run/containerd/socket" --namespace k8s.io images import "$archive" >>"$run/log/import.log" 2>&1 ||
    die "cannot import $archive: $(tail -n 3 "$run/log/import.log")"
done
milestone "images are imported"
component kubelet kubelet --config "$run/kubelet.yaml" --kubeconfig "$run/kubeconfig/kubelet" --root-dir "$run/kubelet" \
  --cert-dir "$run/kubelet/pki" --hostname-override node --node-ip "$address"
component kube-proxy kube-proxy --kubeconfig "$run/kubeconfig/proxy" --proxy-mode nftables --cluster-cidr 10.88.0.0/16 \
  --hostname-override node --conntrack-max-per-core 0 --conntrack-tcp-timeout-established 0s \
  --conntrack-tcp-timeout-close-wait 0s
# `kubectl get node` also succeeds for a node that is not ready.
node_is_ready() { kubectl get node node --output 'jsonpath={.status.conditions[?(@.type=="Ready")].status}' | grep -qx True; }
until_true kubelet 300 node_is_ready
