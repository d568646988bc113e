# README's two commands are `make demo` and `make test`, as root.
SHELL := /bin/bash
GO    ?= go
LINT  := $(GO) tool -modfile=internal/tools/go.mod golangci-lint
FLAGS := -trimpath -ldflags='-s -w'
export CGO_ENABLED = 0
export PATH := $(PATH):/usr/sbin:/sbin

.PHONY: all build generate test test-kernels lint check bench demo clean FORCE
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
	.ci/deps run test
	$(GO) vet ./...
	$(GO) test -count=1 -timeout=40m ./...

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

bench: bin/plumb
	.ci/deps run test
	$(GO) build -o bin/bench-compile ./internal/bench/compile
	bin/bench-compile -n 1000
	bin/bench-compile -n 10000 -runs 5
	$(GO) build -o bin/bench-run ./internal/bench/run
	bin/bench-run

demo: bin/plumb
	.ci/deps run
	examples/demo.sh

clean:
	rm -rf bin .cache
FORCE:
