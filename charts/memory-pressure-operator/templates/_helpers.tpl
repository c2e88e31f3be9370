{{- define "mpo.name" -}}
{{- default .Chart.Name .Values.nameOverride | trunc 43 | trimSuffix "-" -}}
{{- end -}}

{{- /* 43 characters leave room for "-agent-own-node" and for the suffixes of pods and of label values. */ -}}
{{- define "mpo.fullname" -}}
{{- if .Values.fullnameOverride -}}
{{- .Values.fullnameOverride | trunc 43 | trimSuffix "-" -}}
{{- else if contains (include "mpo.name" .) .Release.Name -}}
{{- .Release.Name | trunc 43 | trimSuffix "-" -}}
{{- else -}}
{{- printf "%s-%s" .Release.Name (include "mpo.name" .) | trunc 43 | trimSuffix "-" -}}
{{- end -}}
{{- end -}}

{{- define "mpo.namespace" -}}
{{- default .Release.Namespace .Values.namespaceOverride -}}
{{- end -}}

{{- define "mpo.agent.name" -}}{{ include "mpo.fullname" . }}-agent{{- end -}}
{{- define "mpo.operator.name" -}}{{ include "mpo.fullname" . }}{{- end -}}
{{- define "mpo.defaultPolicy.configMap" -}}{{ include "mpo.fullname" . }}-default-policy{{- end -}}

{{- define "mpo.agent.serviceAccount" -}}
{{- default (include "mpo.agent.name" .) .Values.agent.serviceAccount.name -}}
{{- end -}}

{{- define "mpo.operator.serviceAccount" -}}
{{- default (include "mpo.operator.name" .) .Values.operator.serviceAccount.name -}}
{{- end -}}

{{- define "mpo.agent.metricsService" -}}{{ include "mpo.agent.name" . }}-metrics{{- end -}}

{{- define "mpo.agent.serverName" -}}
{{- printf "%s.%s.svc" (include "mpo.agent.metricsService" .) (include "mpo.namespace" .) -}}
{{- end -}}

{{- define "mpo.agent.metricsSecret" -}}
{{- default (printf "%s-tls" (include "mpo.agent.metricsService" .)) .Values.agent.metrics.secure.secretName -}}
{{- end -}}

{{- define "mpo.agent.user" -}}
system:serviceaccount:{{ include "mpo.namespace" . }}:{{ include "mpo.agent.serviceAccount" . }}
{{- end -}}

{{- define "mpo.operator.user" -}}
system:serviceaccount:{{ include "mpo.namespace" . }}:{{ include "mpo.operator.serviceAccount" . }}
{{- end -}}

{{- /* Labels that select pods: they may never change for the life of a release. */ -}}
{{- define "mpo.selectorLabels" -}}
app.kubernetes.io/name: {{ include "mpo.name" .root }}
app.kubernetes.io/instance: {{ .root.Release.Name }}
app.kubernetes.io/component: {{ .component }}
{{- end -}}

{{- /* Argument: dict "root" $ "component" "agent", "operator" or "" */ -}}
{{- define "mpo.labels" -}}
{{- $labels := dict
  "helm.sh/chart" (printf "%s-%s" .root.Chart.Name .root.Chart.Version | replace "+" "_" | trunc 63 | trimSuffix "-")
  "app.kubernetes.io/name" (include "mpo.name" .root)
  "app.kubernetes.io/instance" .root.Release.Name
  "app.kubernetes.io/version" .root.Chart.AppVersion
  "app.kubernetes.io/part-of" .root.Chart.Name
  "app.kubernetes.io/managed-by" .root.Release.Service -}}
{{- with .component -}}{{- $_ := set $labels "app.kubernetes.io/component" . -}}{{- end -}}
{{- merge (deepCopy $labels) .root.Values.commonLabels | toYaml -}}
{{- end -}}

{{- /* Argument: dict "root" $ "component" ... "name" ... ["cluster" true] ["annotations" dict] ["labels" dict] */ -}}
{{- define "mpo.metadata" -}}
name: {{ .name }}
{{- if not .cluster }}
namespace: {{ include "mpo.namespace" .root }}
{{- end }}
labels:
  {{- include "mpo.labels" . | nindent 2 }}
  {{- with .labels }}
  {{- toYaml . | nindent 2 }}
  {{- end }}
{{- with merge (deepCopy (default dict .annotations)) .root.Values.commonAnnotations }}
annotations:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- end -}}

{{- /* Argument: dict "root" $ "image" .Values.agent.image */ -}}
{{- define "mpo.image" -}}
{{- $registry := default .image.registry .root.Values.global.imageRegistry -}}
{{- if $registry -}}{{ trimSuffix "/" $registry }}/{{- end -}}
{{ .image.repository }}
{{- if .image.digest -}}@{{ .image.digest }}{{- else -}}:{{ default .root.Chart.AppVersion .image.tag }}{{- end -}}
{{- end -}}

{{- define "mpo.imagePullSecrets" -}}
{{- $names := list -}}
{{- range concat .Values.global.imagePullSecrets .Values.imagePullSecrets -}}
{{- if kindIs "string" . -}}
{{- $names = append $names . -}}
{{- else -}}
{{- $names = append $names .name -}}
{{- end -}}
{{- end -}}
{{- with uniq $names -}}
imagePullSecrets:
{{- range . }}
- name: {{ . }}
{{- end }}
{{- end -}}
{{- end -}}

{{- /* No quota of CPU time unless one is asked for. Argument: dict "cpu" "memory" ["cpuLimit"] */ -}}
{{- define "mpo.resources" -}}
requests: {{ toJson (pick . "cpu" "memory") }}
{{- $limits := pick . "memory" }}
{{- with .cpuLimit }}{{ $_ := set $limits "cpu" . }}{{ end }}
limits: {{ toJson $limits }}
{{- end -}}

{{- /* The security context of every container that needs no right on the host. */ -}}
{{- define "mpo.unprivileged" -}}
runAsNonRoot: true
runAsUser: 65532
runAsGroup: 65532
allowPrivilegeEscalation: false
readOnlyRootFilesystem: true
capabilities: {drop: [ALL]}
seccompProfile: {type: RuntimeDefault}
appArmorProfile: {type: RuntimeDefault}
{{- end -}}

{{- define "mpo.podsCgroup" -}}
{{- if .Values.agent.podsCgroup -}}
{{- trimSuffix "/" .Values.agent.podsCgroup -}}
{{- else if eq .Values.agent.cgroupDriver "systemd" -}}
/sys/fs/cgroup/kubepods.slice
{{- else -}}
/sys/fs/cgroup/kubepods
{{- end -}}
{{- end -}}

{{- define "mpo.mayKill" -}}
{{- if ne .Values.agent.profile "Observe" -}}true{{- end -}}
{{- end -}}

{{- /* The spec of a ServiceMonitor or PodMonitor. Argument: dict "root" $ "component" ... "kind" ... "monitor" values
       "job" name of the job, which alerts and dashboards look for "node" whether to add the node's name "connection" dict */ -}}
{{- define "mpo.monitor" -}}
selector:
  matchLabels:
    {{- include "mpo.selectorLabels" . | nindent 4 }}
namespaceSelector:
  matchNames: [{{ include "mpo.namespace" .root }}]
{{- with .monitor.sampleLimit }}
sampleLimit: {{ . }}
{{- end }}
{{ eq .kind "PodMonitor" | ternary "podMetricsEndpoints" "endpoints" }}:
- port: metrics
  {{- with .monitor.interval }}
  interval: {{ . }}
  {{- end }}
  {{- with .monitor.scrapeTimeout }}
  scrapeTimeout: {{ . }}
  {{- end }}
  {{- with .connection }}
  {{- toYaml . | nindent 2 }}
  {{- end }}
  relabelings:
  - {targetLabel: job, replacement: {{ .job }}}
  {{- if .node }}
  - {sourceLabels: [__meta_kubernetes_pod_node_name], targetLabel: node}
  {{- end }}
  {{- with .monitor.relabelings }}
  {{- toYaml . | nindent 2 }}
  {{- end }}
  {{- with .monitor.metricRelabelings }}
  metricRelabelings:
  {{- toYaml . | nindent 2 }}
  {{- end }}
{{- end -}}
