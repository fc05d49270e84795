"""The rules of Pod Security `restricted` (Kubernetes 1.33), for a pod template.

https://kubernetes.io/docs/concepts/security/pod-security-standards/ lists them in this order:
those of `baseline`, then what `restricted` adds. All of them are about Linux.
"""

from __future__ import annotations

from collections.abc import Iterator

from tests.deploy.files import Document

BASELINE_CAPABILITIES = {
    *("AUDIT_WRITE", "CHOWN", "DAC_OVERRIDE", "FOWNER", "FSETID", "KILL", "MKNOD"),
    *("NET_BIND_SERVICE", "SETFCAP", "SETGID", "SETPCAP", "SETUID", "SYS_CHROOT"),
}
SECCOMP = ("RuntimeDefault", "Localhost")
APPARMOR = (None, "RuntimeDefault", "Localhost")
SELINUX = (None, "", "container_t", "container_init_t", "container_kvm_t", "container_engine_t")
SYSCTLS = {
    *(
        "kernel.shm_rmid_forced",
        "net.ipv4.ip_local_port_range",
        "net.ipv4.ip_unprivileged_port_start",
    ),
    *("net.ipv4.tcp_syncookies", "net.ipv4.ping_group_range", "net.ipv4.ip_local_reserved_ports"),
    *("net.ipv4.tcp_keepalive_time", "net.ipv4.tcp_fin_timeout", "net.ipv4.tcp_keepalive_intvl"),
    *("net.ipv4.tcp_keepalive_probes", "net.ipv4.tcp_rmem", "net.ipv4.tcp_wmem"),
}
VOLUMES = {
    *("configMap", "csi", "downwardAPI", "emptyDir", "ephemeral", "image", "persistentVolumeClaim"),
    *("projected", "secret"),
}
CONTAINERS = ("initContainers", "containers", "ephemeralContainers")


def restricted_problems(template: Document) -> list[str]:
    """What a namespace that enforces `restricted` would refuse the pod for."""
    spec = template.get("spec", {})
    containers = [each for kind in CONTAINERS for each in spec.get(kind, [])]
    found = list(_pod(spec))
    if not containers:
        found.append("it has no container")
    for container in containers:
        found += [f"{container['name']}: {fault}" for fault in _container(spec, container)]
    return found


def _pod(spec: Document) -> Iterator[str]:
    for key in ("hostNetwork", "hostPID", "hostIPC"):
        if spec.get(key):
            yield f"{key} is set"
    security = spec.get("securityContext", {})
    yield from _either(security)
    if security.get("runAsUser") == 0:
        yield "runAsUser is 0"
    for sysctl in security.get("sysctls", []):
        if sysctl["name"] not in SYSCTLS:
            yield f"sysctl {sysctl['name']} is not a safe one"
    for volume in spec.get("volumes", []):
        kinds = set(volume) - {"name"}
        if not kinds <= VOLUMES:
            yield f"volume {volume['name']} is a {', '.join(sorted(kinds - VOLUMES))}"


def _container(spec: Document, container: Document) -> Iterator[str]:
    pod, own = spec.get("securityContext", {}), container.get("securityContext", {})
    yield from _either(own)
    if own.get("privileged"):
        yield "privileged is set"
    if own.get("allowPrivilegeEscalation") is not False:
        yield "allowPrivilegeEscalation is not false"
    if own.get("procMount", "Default") != "Default":
        yield "procMount is not Default"
    if not own.get("runAsNonRoot", pod.get("runAsNonRoot")):
        yield "runAsNonRoot is not true"
    if own.get("runAsUser") == 0:
        yield "runAsUser is 0"
    profile = own.get("seccompProfile", pod.get("seccompProfile", {})).get("type")
    if profile not in SECCOMP:
        yield f"seccompProfile {profile} is none of {', '.join(SECCOMP)}"
    capabilities = own.get("capabilities", {})
    if "ALL" not in capabilities.get("drop", []):
        yield "capabilities do not drop ALL"
    added = set(capabilities.get("add", []))
    if added - {"NET_BIND_SERVICE"}:
        beyond = "" if added <= BASELINE_CAPABILITIES else ", beyond baseline too"
        yield f"capabilities add {', '.join(sorted(added))}{beyond}"
    for port in container.get("ports", []):
        if port.get("hostPort", 0):
            yield f"hostPort {port['hostPort']} is set"
    hooks = [container.get(f"{kind}Probe", {}) for kind in ("liveness", "readiness", "startup")]
    hooks += list(container.get("lifecycle", {}).values())
    for hook in hooks:
        if any(hook.get(kind, {}).get("host") for kind in ("httpGet", "tcpSocket")):
            yield "a probe or a hook names a host"


def _either(security: Document) -> Iterator[str]:
    """Rules that a pod and a container have in common."""
    if security.get("windowsOptions", {}).get("hostProcess"):
        yield "hostProcess is set"
    if security.get("appArmorProfile", {}).get("type") not in APPARMOR:
        yield "appArmorProfile is Unconfined"
    selinux = security.get("seLinuxOptions", {})
    if selinux.get("type") not in SELINUX or selinux.get("user") or selinux.get("role"):
        yield "seLinuxOptions name a user, a role or a type of their own"
    if security.get("seccompProfile", {}).get("type") == "Unconfined":
        yield "seccompProfile is Unconfined"
