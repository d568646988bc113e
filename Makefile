# README's two commands are `make demo` and `make test`, as root.
SHELL := /bin/bash
GO    ?= go
LINT  := $(GO) tool -modfile=internal/tools/go.mod golangci-lint
FLAGS := -trimpath -ldflags='-s -w'
export CGO_ENABLED = 0
export PATH := $(PATH):/usr/sbin:/sbin

.PHONY: all build generate test soak test-kernels lint check bench demo clean FORCE
all: build

# One static binary for each machine that plumb is meant for.
build: bin/plumb bin/plumb-linux-arm64 bin/plumb-linux-arm
bin/plumb: FORCE
	$(GO) build $(FLAGS) -o $@ ./cmd/plumb
bin/plumb-linux-arm64: FORCE
	GOARCH=arm64 $(GO) build $(FLAGS) -o $@ ./cmd/plumb
bin/plumb-linux-arm: FORCE
	GOARCH=arm GOARM=7 $(GO) build $(FLAGS) -o $@ ./cmd/plumb

generate:
	.ci/deps generate
	$(GO) generate ./...

test:
	.ci/deps run test $(if $(CI),generate)
	$(GO) vet ./...
	$(GO) test -count=1 -timeout=40m ./...

# Ten minutes of an adversary against the daemon, of which CI runs one, and ten thousand random edits of its files.
SOAK ?= 10m
FUZZED ?= 10000
SEED ?= 1
soak:
	.ci/deps run test
	$(GO) test -count=1 -v -timeout=60m -run '^TestSoak$$' ./cmd/plumb -soak $(SOAK) -seed $(SEED)
	$(GO) test -count=1 -v -timeout=240m -run '^TestFuzzedFiles$$' ./internal/daemon -fuzzed $(FUZZED) -seed $(SEED)

# The privileged tests and the examples on other kernels, in virtual machines.
test-kernels: bin/plumb bin/plumb-linux-arm64
	.ci/deps run test vm
	internal/vmtest/test-kernels

lint:
	.ci/deps generate
	$(LINT) run
	$(LINT) fmt --diff
	GOARCH=arm $(GO) vet ./...
	GOOS=darwin $(GO) build ./schema ./compiler ./reconciler/resource/... ./reconciler/features
	clang-format-16 --dry-run -Werror bpf/*.[ch]

check: lint test

# All figures, in about an hour; with QUICK=1 in a few minutes, which is too little for what differs by less than 10 %.
BENCH := compile run control daemon datapath routing bandwidth icount programs
bench: bin/plumb
	.ci/deps run test vm
	for b in $(BENCH); do $(GO) build -o bin/bench-$$b ./internal/bench/$$b || exit; done
ifdef QUICK
	bin/bench-compile -n 1000
	bin/bench-run -rounds 3
	bin/bench-control -rounds 2 -n 1000
	bin/bench-daemon -n 1000 -times 20 -idle 5
	bin/bench-programs -runs 2000 -rounds 3
	bin/bench-icount -rounds 3 -count 200 -attach veth,bridge,macvlan
	bin/bench-icount -routing -rounds 2 -count 200 -attach veth
	bin/bench-datapath -rounds 10 -seconds 0.05 -services 1,1000
	bin/bench-routing -rounds 10 -seconds 0.05
	bin/bench-icount -bandwidth -attach veth -- -limits 10M -flows 8 -manager on -routing bpf -seconds 2 -bottleneck ''
else
	bin/bench-compile -n 1000
	bin/bench-compile -n 10000 -runs 5
	bin/bench-run
	bin/bench-control
	bin/bench-daemon
	bin/bench-daemon -n 10000 -pods 1000 -times 10 -idle 30
	bin/bench-programs
	bin/bench-icount
	bin/bench-icount -apart
	bin/bench-icount -routing -attach veth,netkit,bridge
	bin/bench-datapath -seconds 0.1
	bin/bench-routing -rounds 120
	bin/bench-bandwidth -limits 10M,100M,1G -manager off -routing bpf -bottleneck ''
	bin/bench-icount -bandwidth -attach veth
endif

demo: bin/plumb
	.ci/deps run
	examples/demo.sh

clean:
	rm -rf bin .cache
FORCE:
