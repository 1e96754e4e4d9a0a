# CHOM: every task of the repository. `make` alone prints this help.
SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
MAKEFLAGS += --no-print-directory

# Tools, Debian bases and archives are cached outside the tree.
export CHOM_CACHE ?= $(if $(filter 0,$(shell id -u)),/var/cache/chom,$(HOME)/.cache/chom)
export PATH := $(CHOM_CACHE)/bin:$(PATH)
export CGO_ENABLED := 0
# What is built in one clone serves every other one, whatever its place and commit.
export GOFLAGS := -trimpath -buildvcs=false

MODULES := proto plugins agent controlplane packaging packaging/servers
VERSION ?= 0.1.0
LDFLAGS := -s -w -X main.version=$(VERSION)
DIST := dist

##@ Use it
.PHONY: demo
demo: ## Boot a VPS on this machine, install the agent by the pasted line, create a WordPress site (root)
	@packaging/setup/deps.sh lab
	@packaging/setup/tools.sh nfpm
	@$(MAKE) packages build
	@go build -o bin/ ./packaging/demo/... ./packaging/lab/cmd/...
	@bin/demo up

.PHONY: demo-down
demo-down: ## Remove every trace of the demo
	@go build -o bin/ ./packaging/demo/... && bin/demo down

.PHONY: run
run: build ## Start the control plane alone on 127.0.0.1, data and mails in .run/ (no root needed)
	@mkdir -p -m 0700 .run && exec bin/chomd serve --data-dir .run --mail-dir .run/mails --people-listen 127.0.0.1:8080 --agents-listen 127.0.0.1:8443 --agent-address 127.0.0.1:8443

.PHONY: build
build: ## Build the dashboard, chomd, chom, chom-agent, chom-swarm and the plugins into bin/
	@packaging/setup/web.sh build
	@go build -ldflags '$(LDFLAGS)' -o bin/ ./controlplane/cmd/... ./agent/cmd/...
	@for p in static wordpress; do go build -ldflags '$(LDFLAGS)' -o bin/chom-plugin-$$p ./plugins/$$p; done

.PHONY: packages
packages: ## Build the .debs of the agent and of the command line for amd64 and arm64 into dist/
	@packaging/setup/tools.sh nfpm
	@VERSION=$(VERSION) packaging/agent/build.sh amd64 arm64
	@VERSION=$(VERSION) packaging/cli/build.sh amd64 arm64

##@ Prove it
.PHONY: test
test: ## Install what is missing and run everything: checks, units on both databases, the lab end to end
	@packaging/setup/test.sh

.PHONY: check
check: ## Generated code is clean, lint, vet, every module builds alone
	@packaging/setup/tools.sh
	@packaging/setup/check.sh

.PHONY: bench
bench: ## Measure every promised figure; ONLY=name runs one, BENCH_JSON=file also writes JSON (root)
	@packaging/setup/deps.sh test
	@packaging/setup/tools.sh nfpm pebble versitygw
	@$(MAKE) packages build
	@go build -o bin/ ./packaging/bench/...
	@bin/bench $(if $(ONLY),--only $(ONLY)) $(if $(BENCH_JSON),--json $(BENCH_JSON))

.PHONY: prove
prove: ## The long forms: every fault at every step, on both Debian releases (root)
	@CHOM_PROVE=1 packaging/setup/test.sh

.PHONY: restore-proof
restore-proof: ## 200 restores of sites of chance, 2,000 damaged repositories, faults at any moment: counts, and 0 missed (root)
	@packaging/setup/deps.sh test
	@packaging/setup/tools.sh versitygw
	@CHOM_PROVE=1 go test ./controlplane/backup/ -count=1 -v -timeout 6h -run 'TestProof' | grep -Ev '^=== |level='

.PHONY: mutants
mutants: ## Remove one check at a time and show that the tests notice; ONLY="word word" for some
	@packaging/setup/deps.sh test
	@go run ./packaging/mutants $(ONLY)

##@ Change it
.PHONY: generate
generate: ## Regenerate what comes from the protos: proto/gen, controlplane/web/src/gen, controlplane/api/openapi.json
	@packaging/setup/tools.sh buf protoc-gen-go protoc-gen-connect-go protoc-gen-go-grpc
	@packaging/setup/web.sh
	@buf format -w && rm -rf proto/gen && buf generate
	@cd controlplane/web && npm run -s generate
	@packaging/setup/openapi.sh >controlplane/api/openapi.json.new && mv controlplane/api/openapi.json.new controlplane/api/openapi.json

.PHONY: pictures
pictures: ## Walk the dashboard on a host of the lab, and renew the README's pictures in controlplane/web/pictures (root)
	@packaging/setup/deps.sh test
	@packaging/setup/tools.sh nfpm pebble
	@packaging/setup/web.sh build
	@VERSION=$(VERSION) TAGS=failpoint packaging/agent/build.sh amd64
	@mkdir -p bin-failpoint && go build -tags failpoint -o bin-failpoint/ ./controlplane/cmd/... ./agent/cmd/...
	@mkdir -p controlplane/web/pictures
	@export PICTURES=$$PWD/controlplane/web/pictures CHOMD=$$PWD/bin-failpoint/chomd SWARM=$$PWD/bin-failpoint/chom-swarm; \
		(cd controlplane/web && npx vitest run src/dashboard.test.ts) && go test -count=1 ./packaging/e2e/dashboard

.PHONY: lint
lint: ## golangci-lint over all modules
	@packaging/setup/tools.sh golangci-lint
	@for m in $(MODULES); do (cd $$m && golangci-lint run --allow-parallel-runners ./...); done

.PHONY: tidy
tidy: ## go mod tidy in every module
	@for m in $(MODULES); do (cd $$m && GOWORK=off go mod tidy); done

.PHONY: clean
clean: ## Remove what was built
	@rm -rf bin dist && find controlplane/web/dist -mindepth 1 ! -name .gitkeep -delete

.PHONY: help
help:
	@awk 'BEGIN {FS = ":.*## "} /^##@/ {printf "\n%s\n", substr($$0, 5)} /^[a-z-]+:.*## / {printf "  make %-13s %s\n", $$1, $$2}' $(MAKEFILE_LIST)
