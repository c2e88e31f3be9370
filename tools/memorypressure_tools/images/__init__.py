"""The images of agent and operator: built from one Containerfile by buildah, without a daemon, as OCI archives."""
