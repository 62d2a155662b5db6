{{- define "stic-operator.name" -}}
{{- default .Chart.Name .Values.nameOverride | trunc 63 | trimSuffix "-" }}
{{- end }}

{{- define "stic-operator.fullname" -}}
{{- if .Values.fullnameOverride }}
{{- .Values.fullnameOverride | trunc 63 | trimSuffix "-" }}
{{- else if contains (include "stic-operator.name" .) .Release.Name }}
{{- .Release.Name | trunc 63 | trimSuffix "-" }}
{{- else }}
{{- printf "%s-%s" .Release.Name (include "stic-operator.name" .) | trunc 63 | trimSuffix "-" }}
{{- end }}
{{- end }}

{{- define "stic-operator.selectorLabels" -}}
app.kubernetes.io/name: {{ include "stic-operator.name" . }}
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end }}

{{- define "stic-operator.labels" -}}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name (.Chart.Version | replace "+" "_") }}
{{ include "stic-operator.selectorLabels" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/part-of: stic
app.kubernetes.io/managed-by: {{ .Release.Service }}
{{- end }}

{{- define "stic-operator.serviceAccountName" -}}
{{- if .Values.serviceAccount.create }}
{{- default (include "stic-operator.fullname" .) .Values.serviceAccount.name }}
{{- else }}
{{- required "serviceAccount.name is required when serviceAccount.create is false" .Values.serviceAccount.name }}
{{- end }}
{{- end }}

{{- /* The namespaces to watch, as a JSON list. Empty means all. */}}
{{- define "stic-operator.namespaces" -}}
{{- concat .Values.watchNamespaces (list .Values.watchNamespace) | compact | uniq | toJson }}
{{- end }}

{{- /* The image reference for a list of an image's values and the default tag. */}}
{{- define "stic-operator.image" -}}
{{- $image := index . 0 }}
{{- if $image.digest }}
{{- printf "%s@%s" $image.repository $image.digest }}
{{- else }}
{{- printf "%s:%s" $image.repository (default (index . 1) $image.tag) }}
{{- end }}
{{- end }}

{{- /*
The operator's permissions where it watches runs. A comment before a rule is its reason in the table of README.md, which
tests/chart_permissions.py writes and checks; it also requires the form of these lines.
*/}}
{{- define "stic-operator.rules" -}}
# The runs that it reconciles.
- apiGroups: [stic.dev]
  resources: [stageoneruns, stagetworuns, evaluationruns]
  verbs: [list, watch]
# To write the status.
- apiGroups: [stic.dev]
  resources: [stageoneruns/status, stagetworuns/status, evaluationruns/status]
  verbs: [patch]
# Never called. Clusters that check owner references (OpenShift) require it, since a Job blocks the deletion of its run.
- apiGroups: [stic.dev]
  resources: [stageoneruns/finalizers, stagetworuns/finalizers, evaluationruns/finalizers]
  verbs: [update]
# A step is a Job.
- apiGroups: [batch]
  resources: [jobs]
  verbs: [get, list, watch, create, patch, delete]
# The run config of a step.
- apiGroups: [""]
  resources: [configmaps]
  verbs: [get, create, delete]
# To check the claims of a run, and to create the one that a run requests.
- apiGroups: [""]
  resources: [persistentvolumeclaims]
  verbs: [get, list, watch, create, patch]
# Results, progress, and why a pod does not run.
- apiGroups: [""]
  resources: [pods]
  verbs: [list, watch]
# To report why a Job has no pods: only its events contain the reason.
- apiGroups: [""]
  resources: [events]
  verbs: [list]
# To record what happens to a run.
- apiGroups: [events.k8s.io]
  resources: [events]
  verbs: [create]
{{- if .Values.kueue.enabled }}
# To report what a run in a queue waits for, and to suspend it.
- apiGroups: [kueue.x-k8s.io]
  resources: [workloads]
  verbs: [list, patch]
{{- end }}
{{- end }}
