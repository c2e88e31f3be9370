"""A real cluster on one machine: the control plane as processes, one or two nodes in virtual machines, our chart.

`nodeimage` makes the nodes' root image (kubelet, containerd, runc, CNI, container images unpacked in it), `node` is one
node, `cluster` puts both together with the control plane and the chart, `python -m memorypressure_tools.cluster` is
what `make cluster` runs. What is not there, because nothing here needs it: kube-proxy, cluster DNS, a network between
the pods of two nodes.
"""
