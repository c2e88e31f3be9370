"""The images of agent and operator: built from their Containerfiles by buildah, without a daemon, as OCI archives."""
