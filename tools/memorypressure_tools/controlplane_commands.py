"""The command lines of a control plane's parts, as functions of its options, files and ports."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from memorypressure_tools.certificates import Pair
from memorypressure_tools.ports import LOOPBACK

SERVICE_RANGE: Final = "10.96.0.0/16"

Command = list[str | Path]


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """What may differ between control planes; the defaults are what the tests use."""

    controller_manager: bool = True
    scheduler: bool = True
    #: further DNS names and addresses of the API server's certificate, for example 10.0.2.2 for a QEMU guest
    server_names: Sequence[str] = ()
    bind_address: str = LOOPBACK
    #: seconds without a heartbeat until a node counts as gone; long, because the nodes of tests have no kubelet
    node_grace_seconds: int = 3600
    #: words before the API server's command; they have to `exec` it, so that its pid stays the child's
    apiserver_wrapper: Sequence[str] = ()
    apiserver_flags: Sequence[str] = ()
    controller_manager_flags: Sequence[str] = ()
    etcd_flags: Sequence[str] = ()
    #: where the run directory is made; None for the system's temporary directory
    parent: Path | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Files:
    """What the parts are started with: `directory` holds keys, kubeconfigs and etcd's data, `tools` the binaries."""

    tools: Mapping[str, Path]
    directory: Path
    authority: Path
    serving: Pair
    admin: Pair
    kubelet_client: Pair


def etcd(files: Files, options: Options, port: int, peer_port: int) -> Command:
    """Etcd on these ports, for clients with a certificate; without fsync, as nothing outlives a run."""
    tls = {
        "trusted-ca-file": files.authority,
        "cert-file": files.serving.certificate,
        "key-file": files.serving.key,
    }
    return [
        files.tools["etcd"],
        f"--data-dir={files.directory / 'etcd'}",
        f"--listen-client-urls=https://{LOOPBACK}:{port}",
        f"--advertise-client-urls=https://{LOOPBACK}:{port}",
        f"--listen-peer-urls=http://{LOOPBACK}:{peer_port}",
        f"--initial-advertise-peer-urls=http://{LOOPBACK}:{peer_port}",
        f"--initial-cluster=default=http://{LOOPBACK}:{peer_port}",
        "--client-cert-auth",
        *(f"--{name}={path}" for name, path in tls.items()),
        "--unsafe-no-fsync",
        "--log-level=warn",
        *options.etcd_flags,
    ]


def apiserver(files: Files, options: Options, port: int, etcd_url: str) -> Command:
    """kube-apiserver on this port, over etcd at this address."""
    keys = files.directory / "pki"
    flags = {
        "etcd-servers": etcd_url,
        "etcd-cafile": files.authority,
        "etcd-certfile": files.admin.certificate,
        "etcd-keyfile": files.admin.key,
        "bind-address": options.bind_address,
        "advertise-address": LOOPBACK,
        "secure-port": port,
        "endpoint-reconciler-type": "none",
        "authorization-mode": "Node,RBAC",
        "enable-admission-plugins": "NodeRestriction",
        "client-ca-file": files.authority,
        "tls-cert-file": files.serving.certificate,
        "tls-private-key-file": files.serving.key,
        "service-account-issuer": "https://kubernetes.default.svc",
        "service-account-key-file": keys / "sa.pub",
        "service-account-signing-key-file": keys / "sa.key",
        "kubelet-client-certificate": files.kubelet_client.certificate,
        "kubelet-client-key": files.kubelet_client.key,
        "service-cluster-ip-range": SERVICE_RANGE,
        "allow-privileged": "true",
        "profiling": "false",
    }
    words = [f"--{name}={value}" for name, value in flags.items()]
    return [*options.apiserver_wrapper, files.tools["kube-apiserver"], *words, *options.apiserver_flags]


def component(files: Files, options: Options, name: str, port: int) -> Command:
    """kube-controller-manager or kube-scheduler on this port, with the kubeconfig of its name."""
    kubeconfig = files.directory / f"{name}.kubeconfig"
    flags: dict[str, object] = {
        "kubeconfig": kubeconfig,
        "authentication-kubeconfig": kubeconfig,
        "authorization-kubeconfig": kubeconfig,
        "bind-address": LOOPBACK,
        "secure-port": port,
        "tls-cert-file": files.serving.certificate,
        "tls-private-key-file": files.serving.key,
        "leader-elect": "false",
    }
    extra: Sequence[str] = ()
    if name == "kube-controller-manager":
        flags |= {
            "service-account-private-key-file": files.directory / "pki/sa.key",
            "root-ca-file": files.authority,
            "use-service-account-credentials": "true",
            "allocate-node-cidrs": "true",
            "cluster-cidr": "10.244.0.0/16",
            "service-cluster-ip-range": SERVICE_RANGE,
            "node-monitor-grace-period": f"{options.node_grace_seconds}s",
        }
        extra = options.controller_manager_flags
    return [files.tools[name], *(f"--{flag}={value}" for flag, value in flags.items()), *extra]
