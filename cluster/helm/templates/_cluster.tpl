{{- define "codex-ray.labels" -}}
app.kubernetes.io/part-of: codex-ray
app.kubernetes.io/instance: {{ .Release.Name }}
{{- if .Values.queue.name }}
kueue.x-k8s.io/queue-name: {{ .Values.queue.name }}
{{- end }}
{{- if .Values.queue.priority }}
kueue.x-k8s.io/priority-class: {{ .Values.queue.priority }}
{{- end }}
{{- end -}}

{{- define "codex-ray.tls" -}}
- {name: RAY_USE_TLS, value: '1'}
- {name: RAY_TLS_SERVER_CERT, value: /tls/tls.crt}
- {name: RAY_TLS_SERVER_KEY, value: /tls/tls.key}
- {name: RAY_TLS_CA_CERT, value: /tls/ca.crt}
{{- end -}}

{{- define "codex-ray.pod" -}}
spec:
  automountServiceAccountToken: {{ .head }}
  nodeSelector: {pool: {{ .group.pool }}}
{{- if .group.tainted }}
  tolerations:
    - {key: pool, operator: Equal, value: {{ .group.pool }}, effect: NoSchedule}
{{- end }}
  securityContext: {runAsNonRoot: true, runAsUser: 1000, runAsGroup: 1000, fsGroup: 1000, seccompProfile: {type: RuntimeDefault}}
  initContainers: # a certificate for this pod's address, of the authority that all pods trust
    - name: certificate
      image: {{ .values.image }}
      command: [sh, -c, 'cp /authority/* /tmp && sh cluster/tls/issue.sh /tmp /tls "$POD_IP" "*.$NAMESPACE.svc.cluster.local"']
      env:
        - {name: POD_IP, valueFrom: {fieldRef: {fieldPath: status.podIP}}}
        - {name: NAMESPACE, valueFrom: {fieldRef: {fieldPath: metadata.namespace}}}
      securityContext: {allowPrivilegeEscalation: false, capabilities: {drop: [ALL]}}
      volumeMounts:
        - {name: authority, mountPath: /authority, readOnly: true}
        - {name: tls, mountPath: /tls}
  containers:
    - name: {{ .name }}
      image: {{ .values.image }}
      resources:
        requests: {{ toJson .group.resources }}
        limits: {{ toJson .group.resources }}
{{- if .head }}
      ports:
        - {containerPort: 6379, name: gcs}
        - {containerPort: 8265, name: dashboard}
        - {containerPort: 10001, name: client}
        - {containerPort: 8000, name: serve}
        - {containerPort: 8080, name: metrics}
{{- end }}
      env:
        {{- include "codex-ray.tls" . | nindent 8 }}
        - {name: RAY_USAGE_STATS_ENABLED, value: '0'}
      securityContext: {allowPrivilegeEscalation: false, capabilities: {drop: [ALL]}}
      volumeMounts:
        - {name: tls, mountPath: /tls, readOnly: true}
        - {name: shared, mountPath: /shared}
        - {name: memory, mountPath: /dev/shm}
  volumes:
    - {name: authority, secret: {secretName: {{ .values.authority }}}}
    - {name: tls, emptyDir: {medium: Memory, sizeLimit: 1Mi}}
    - {name: shared, persistentVolumeClaim: {claimName: {{ .values.storage.claim }}}}
    - {name: memory, emptyDir: {medium: Memory, sizeLimit: {{ .values.memoryDisk }}}}
{{- end -}}

{{- define "codex-ray.cluster" -}}
rayVersion: {{ quote .Values.rayVersion }}
authOptions: {mode: token} # KubeRay makes the token, a secret of the cluster's name
enableInTreeAutoscaling: {{ not .Values.queue.name }} # what a queue admits has one size
{{- if not .Values.queue.name }}
autoscalerOptions:
  version: v2
  idleTimeoutSeconds: 600
  env: # it talks to the head as nodes do, with the head's own certificate
    {{- include "codex-ray.tls" . | nindent 4 }}
  volumeMounts:
    - {name: tls, mountPath: /tls, readOnly: true}
{{- end }}
headGroupSpec:
  serviceType: ClusterIP
  labels: {pool: {{ .Values.head.pool }}}
  rayStartParams: {dashboard-host: 0.0.0.0, num-cpus: '0'} # within the pod network; network-policy.yaml guards it
  template:
    {{- include "codex-ray.pod" (dict "values" .Values "group" .Values.head "name" "ray-head" "head" true) | nindent 4 }}
workerGroupSpecs:
{{- range $name, $group := .Values.workers }}
  - groupName: {{ $name }}
    replicas: {{ $group.replicas }}
    minReplicas: {{ $group.min }}
    maxReplicas: {{ $group.max }}
    labels: {pool: {{ $group.pool }}}
    rayStartParams: {}
    template:
      {{- include "codex-ray.pod" (dict "values" $.Values "group" $group "name" "ray-worker" "head" false) | nindent 6 }}
{{- end }}
{{- end -}}
