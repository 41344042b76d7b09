{{- define "session-revoker.name" -}}
{{- default .Chart.Name .Values.nameOverride | trunc 63 | trimSuffix "-" }}
{{- end }}

{{- define "session-revoker.fullname" -}}
{{- if .Values.fullnameOverride }}
{{- .Values.fullnameOverride | trunc 52 | trimSuffix "-" }}
{{- else if contains (include "session-revoker.name" .) .Release.Name }}
{{- .Release.Name | trunc 52 | trimSuffix "-" }}
{{- else }}
{{- printf "%s-%s" .Release.Name (include "session-revoker.name" .) | trunc 52 | trimSuffix "-" }}
{{- end }}
{{- end }}

{{- define "session-revoker.selectorLabels" -}}
app.kubernetes.io/name: {{ include "session-revoker.name" . }}
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end }}

{{- define "session-revoker.labels" -}}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version | replace "+" "_" | trunc 63 | trimSuffix "-" }}
{{ include "session-revoker.selectorLabels" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
{{- end }}

{{- define "session-revoker.serviceAccountName" -}}
{{- if .Values.serviceAccount.create }}
{{- default (include "session-revoker.fullname" .) .Values.serviceAccount.name }}
{{- else }}
{{- default "default" .Values.serviceAccount.name }}
{{- end }}
{{- end }}

{{- define "session-revoker.image" -}}
{{- if .Values.image.digest -}}
{{ .Values.image.repository }}@{{ .Values.image.digest }}
{{- else -}}
{{ .Values.image.repository }}:{{ default .Chart.AppVersion .Values.image.tag }}
{{- end }}
{{- end }}

{{/* The seconds of a Go duration in hours, minutes, and seconds, like 1m30s; rounded up. */}}
{{- define "session-revoker.seconds" -}}
{{- if not (regexMatch "^([0-9]+h)?([0-9]+m)?([0-9.]+s)?$" .) }}
{{- fail (printf "%q is not a duration in hours, minutes and seconds, like 1m30s" .) }}
{{- end }}
{{- $hours := regexFind "[0-9]+h" . | trimSuffix "h" | default "0" | int }}
{{- $minutes := regexFind "[0-9]+m" . | trimSuffix "m" | default "0" | int }}
{{- $seconds := regexFind "[0-9.]+s" . | trimSuffix "s" | default "0" | float64 | ceil | int }}
{{- add (mul 3600 $hours) (mul 60 $minutes) $seconds }}
{{- end }}

{{/* How long a pod may take to stop: the worker drains, settles, and closes. */}}
{{- define "session-revoker.gracePeriod" -}}
{{- $consumer := dig "consumer" (dict) .Values.config }}
{{- $drain := include "session-revoker.seconds" (default "25s" $consumer.drain_timeout) | int }}
{{- $settle := include "session-revoker.seconds" (default "10s" $consumer.settle_timeout) | int }}
{{- add $drain $settle 15 }}
{{- end }}

{{/* The configuration file: the values, and what only the chart knows. */}}
{{- define "session-revoker.config" -}}
{{- $config := omit (deepCopy .Values.config) "ingest" }}
{{- $_ := set $config "ops" (merge (dict "address" (printf ":%d" (int .Values.metrics.port))) (dig "ops" (dict) $config)) }}
{{- $_ := set $config "guard" (merge (dig "guard" (dict) $config) (dict "release_file" "/etc/session-revoker/release/release.json")) }}
{{- with .Values.secret }}
{{- if .existingSecret }}
{{- if .connectionStringKey }}
{{- $_ := set $config "servicebus" (merge (dict "connection_string_file" "/etc/session-revoker/secret/connection-string") (dig "servicebus" (dict) $config)) }}
{{- end }}
{{- if .clientSecretKey }}
{{- $_ := set $config "graph" (merge (dict "client_secret_file" "/etc/session-revoker/secret/client-secret") (dig "graph" (dict) $config)) }}
{{- end }}
{{- if .clientCertificateKey }}
{{- $_ := set $config "graph" (merge (dict "client_certificate_file" "/etc/session-revoker/secret/client-certificate") (dig "graph" (dict) $config)) }}
{{- end }}
{{- if .redisPasswordKey }}
{{- $_ := set $config "redis" (merge (dict "password_file" "/etc/session-revoker/secret/redis-password") (dig "redis" (dict) $config)) }}
{{- end }}
{{- else if or .connectionStringKey .clientSecretKey .clientCertificateKey .redisPasswordKey }}
{{- fail "secret: a key is set, and existingSecret is not: name the Secret" }}
{{- end }}
{{- end }}
{{- with .Values.caBundle }}
{{- if and .configMap .inline }}
{{- fail "caBundle: both configMap and inline are set: keep one" }}
{{- end }}
{{- if contains "PRIVATE KEY" .inline }}
{{- fail "caBundle.inline holds a private key: it may hold certificates only" }}
{{- end }}
{{- if .configMap }}
{{- $_ := set $config "tls" (dict "ca_file" "/etc/session-revoker/ca/ca.pem") }}
{{- else if .inline }}
{{- $_ := set $config "tls" (dict "ca_file" "/etc/session-revoker/config/ca.pem") }}
{{- end }}
{{- end }}
{{- toYaml $config }}
{{- end }}

{{/* The environment: the proxy, and what the values add. */}}
{{- define "session-revoker.env" -}}
{{- with .Values.proxy }}
{{- if and .httpsProxy .existingSecret }}
{{- fail "proxy: both httpsProxy and existingSecret are set: keep one" }}
{{- end }}
{{- if .existingSecret }}
- name: HTTPS_PROXY
  valueFrom:
    secretKeyRef:
      name: {{ .existingSecret }}
      key: {{ .secretKey }}
{{- else if .httpsProxy }}
- name: HTTPS_PROXY
  value: {{ .httpsProxy | quote }}
{{- end }}
{{- if .noProxy }}
- name: NO_PROXY
  value: {{ .noProxy | quote }}
{{- end }}
{{- end }}
{{- with .Values.extraEnv }}
{{ toYaml . }}
{{- end }}
{{- end }}

{{/* The ports for egress to Service Bus, Graph, and sign-in, or to the proxy. */}}
{{- define "session-revoker.ports" -}}
{{- $bus := dig "servicebus" (dict) .Values.config }}
{{- $webSockets := eq (default "amqp" $bus.transport) "websockets" }}
{{- $proxy := "" }}
{{- if (.Values.proxy).existingSecret }}
{{- $proxy = toString (int (.Values.proxy).port) }}
{{- else if (.Values.proxy).httpsProxy }}
{{- $proxy = regexFind ":[0-9]+/?$" (.Values.proxy).httpsProxy | trimAll ":/" | default (hasPrefix "https:" (.Values.proxy).httpsProxy | ternary "443" "80") }}
{{- end }}
{{- $endpoint := "" }}
{{- if regexMatch `^(\[.*\]|[^:]+):[0-9]+$` (default "" $bus.endpoint) }}
{{- $endpoint = regexFind "[0-9]+$" $bus.endpoint }}
{{- end }}
{{- $ports := list }}
{{- if $proxy }}
{{- $ports = append $ports $proxy }}
{{- end }}
{{- if or (not $proxy) (.Values.proxy).noProxy }}
{{- $ports = append $ports "443" }}
{{- end }}
{{- if not $webSockets }}
{{- $ports = append $ports (default "5671" $endpoint) }}
{{- else if and $endpoint (or (not $proxy) (.Values.proxy).noProxy) }}
{{- $ports = append $ports $endpoint }}
{{- end }}
{{- join "," (uniq $ports) }}
{{- end }}

{{- define "session-revoker.scaled" -}}
{{- if and .Values.hpa.enabled .Values.keda.enabled }}
{{- fail "hpa.enabled and keda.enabled exclude each other: two scalers would fight over the replicas" }}
{{- end }}
{{- if or .Values.hpa.enabled .Values.keda.enabled }}true{{ end }}
{{- end }}

{{- define "session-revoker.podLabels" -}}
{{ include "session-revoker.selectorLabels" . }}
{{- if .Values.workloadIdentity.enabled }}
azure.workload.identity/use: "true"
{{- end }}
{{- end }}

{{- define "session-revoker.podSecurityContext" -}}
runAsNonRoot: true
runAsUser: 65532
runAsGroup: 65532
fsGroup: 65532
seccompProfile:
  type: RuntimeDefault
{{- end }}

{{- define "session-revoker.securityContext" -}}
allowPrivilegeEscalation: false
readOnlyRootFilesystem: true
capabilities:
  drop: [ALL]
{{- end }}

{{- define "session-revoker.volumeMounts" -}}
- name: config
  mountPath: /etc/session-revoker/config
  readOnly: true
- name: release
  mountPath: /etc/session-revoker/release
  readOnly: true
{{- if .Values.secret.existingSecret }}
- name: secret
  mountPath: /etc/session-revoker/secret
  readOnly: true
{{- end }}
{{- if (.Values.caBundle).configMap }}
- name: ca
  mountPath: /etc/session-revoker/ca
  readOnly: true
{{- end }}
{{- with .Values.extraVolumeMounts }}
{{ toYaml . }}
{{- end }}
{{- end }}

{{- define "session-revoker.volumes" -}}
- name: config
  configMap:
    name: {{ include "session-revoker.fullname" . }}
# An operator creates it to release the volume guard: worker guard release.
- name: release
  configMap:
    name: {{ include "session-revoker.fullname" . }}-release
    optional: true
{{- with .Values.secret }}
{{- if .existingSecret }}
- name: secret
  secret:
    secretName: {{ .existingSecret }}
    defaultMode: 0440
    items:
      {{- if .connectionStringKey }}
      - key: {{ .connectionStringKey }}
        path: connection-string
      {{- end }}
      {{- if .clientSecretKey }}
      - key: {{ .clientSecretKey }}
        path: client-secret
      {{- end }}
      {{- if .clientCertificateKey }}
      - key: {{ .clientCertificateKey }}
        path: client-certificate
      {{- end }}
      {{- if .redisPasswordKey }}
      - key: {{ .redisPasswordKey }}
        path: redis-password
      {{- end }}
{{- end }}
{{- end }}
{{- with .Values.caBundle }}
{{- if .configMap }}
- name: ca
  configMap:
    name: {{ .configMap }}
    items:
      - key: {{ .key }}
        path: ca.pem
{{- end }}
{{- end }}
{{- with .Values.extraVolumes }}
{{ toYaml . }}
{{- end }}
{{- end }}

{{/* What the worker, the replay, and the test have in common. */}}
{{- define "session-revoker.podSpec" -}}
automountServiceAccountToken: false
enableServiceLinks: false
securityContext:
  {{- include "session-revoker.podSecurityContext" . | nindent 2 }}
{{- with .Values.imagePullSecrets }}
imagePullSecrets:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .Values.nodeSelector }}
nodeSelector:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .Values.tolerations }}
tolerations:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .Values.affinity }}
affinity:
  {{- toYaml . | nindent 2 }}
{{- end }}
volumes:
  {{- include "session-revoker.volumes" . | nindent 2 }}
{{- end }}

{{- define "session-revoker.container" -}}
image: {{ include "session-revoker.image" . | quote }}
imagePullPolicy: {{ .Values.image.pullPolicy }}
securityContext:
  {{- include "session-revoker.securityContext" . | nindent 2 }}
{{- with include "session-revoker.env" . | trim }}
env:
  {{- . | nindent 2 }}
{{- end }}
resources:
  {{- toYaml .Values.resources | nindent 2 }}
volumeMounts:
  {{- include "session-revoker.volumeMounts" . | nindent 2 }}
{{- end }}

{{- define "session-revoker.ingestServiceAccountName" -}}
{{- if .Values.ingest.serviceAccount.create }}
{{- default (printf "%s-ingest" (include "session-revoker.fullname" .)) .Values.ingest.serviceAccount.name }}
{{- else }}
{{- default "default" .Values.ingest.serviceAccount.name }}
{{- end }}
{{- end }}

{{/* The configuration file of the ingest: what it needs of the values, and no secret of the worker. */}}
{{- define "session-revoker.ingestConfig" -}}
{{- $all := deepCopy .Values.config }}
{{- $config := pick $all "servicebus" "events" "tls" "log" "consumer" "ingest" "ops" }}
{{- with dig "graph" "cloud" "" $all }}
{{- $_ := set $config "graph" (dict "cloud" .) }}
{{- end }}
{{- $_ := set $config "ops" (merge (dict "address" (printf ":%d" (int .Values.metrics.port))) (dig "ops" (dict) $config)) }}
{{- $_ := set $config "ingest" (merge (dict "address" (printf ":%d" (int .Values.ingest.port))) (dig "ingest" (dict) $config)) }}
{{- with .Values.ingest.connectionStringKey }}
{{- $_ := set $config "servicebus" (merge (dict "connection_string_file" (printf "/etc/session-revoker/ingest/%s" .)) (dig "servicebus" (dict) $config)) }}
{{- end }}
{{- if .Values.caBundle.configMap }}
{{- $_ := set $config "tls" (dict "ca_file" "/etc/session-revoker/ca/ca.pem") }}
{{- else if .Values.caBundle.inline }}
{{- $_ := set $config "tls" (dict "ca_file" "/etc/session-revoker/config/ca.pem") }}
{{- end }}
{{- toYaml $config }}
{{- end }}
