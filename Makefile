# Commands for people. What needs more than a line is in xtask/.
.DEFAULT_GOAL := help
.PHONY: help install build guest images packages kube-assets demo stop test lint bench

help: ## this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-11s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

install:
	@xtask/host/install.sh

build: install ## release binaries in target/release: ovm-standalone, ovm-controller, ovm-agent, virtctl, kubectl-virt
	cargo build --locked --release --package standalone --package controller --package agent --package virtctl --bins

guest: install ## the demo guest's disk, target/guest/disk.img
	@xtask/guest/build.sh

kube-assets: ## etcd, kube-apiserver, kubelet and the rest of a cluster for tests, in target/kube-assets (needs Go)
	@cargo xtask kube-assets

images: install ## container images for a cluster, target/images/ovm-controller.tar and ovm-agent.tar (OCI archives)
	@cargo xtask images

packages: install ## Debian packages for hosts with systemd, target/packages/*.deb
	@cargo xtask packages

demo: install ## the user guide's example on this host: installs, builds and starts what is missing; state in .demo
	@cargo xtask demo

stop: ## ends what `make demo` started, guests included
	@cargo xtask stop

test: install ## everything that continuous integration checks
	@cargo xtask ci

lint: install ## formatting, clippy and documentation only
	@cargo xtask ci --only lint

bench: install ## the figures, one line each, also in target/bench.json
	@cargo xtask bench
