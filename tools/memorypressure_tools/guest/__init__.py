"""Small virtual machines to run real kernels in: kernel, root trees, disks, the machine, a root shell in it.

In the order of use: `packages.ensure`, `kernel.ensure`, `programs.ensure`, `tree.Tree` (a root directory), `images`
(initrd and disks), `machine.Machine` (what a virtual machine is) and `running.Running` (one that runs, with its shell).
Everything that can be kept is in the cache (`store`); nothing is installed on the host but Debian packages, by apt-get.
"""
