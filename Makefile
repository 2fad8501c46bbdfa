# make help lists the targets. Tools run at a pinned version, with "go run".
GOLANGCI  := github.com/golangci/golangci-lint/v2/cmd/golangci-lint@v2.12.2
BENCHSTAT := golang.org/x/perf/cmd/benchstat@v0.0.0-20260908200009-22c9c6c9d4da
VULN      := golang.org/x/vuln/cmd/govulncheck@v1.9.0
NFPM      := github.com/goreleaser/nfpm/v2/cmd/nfpm@v2.43.0
CYCLONEDX := github.com/CycloneDX/cyclonedx-gomod/cmd/cyclonedx-gomod@v1.10.0

VERSION := $(shell git describe --tags --always --dirty 2>/dev/null || echo unknown)
LDFLAGS := -s -w -X main.version=$(VERSION)
FUZZTIME ?= 20s

.PHONY: help build run demo test quick transcripts examples docker-test golden fuzz bench bench-builder bench-router bench-compare lint fmt soak systemd docs vuln image release release-check check clean

help: ## list the targets
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sort | awk -F ':.*## ' '{printf "  %-14s %s\n", $$1, $$2}'

build: ## bin/mesh, static, with its version from git
	CGO_ENABLED=0 go build -trimpath -ldflags '$(LDFLAGS)' -o bin/mesh ./cmd/mesh

run: build engine ## a server to try by hand, with your own keys as admins
	scripts/run

demo: build engine ## the main job from end to end, with the real programs
	scripts/demo

.PHONY: engine
engine:
	@scripts/engine
	@scripts/base-images busybox nginx

# The servers that add-ons run, which the tests of addons and cmd/mesh start.
.PHONY: databases
databases: engine
	@scripts/base-images postgres mariadb redis valkey rabbitmq memcached

.PHONY: programs
programs:
	@scripts/programs

# What speaks to the engine, which is a package of its own beside those that test it.
ENGINE_PACKAGES := ./addons ./builder ./cluster ./registry ./runner ./volumes ./cmd/mesh

# Packages and their tests wait for the engine, the network and git more than for
# processors: more of them run at once than there are processors.
test: engine databases programs ## all tests, race detector on, with the real engine, git and ssh
	go test -race -shuffle=on -timeout 30m -p 2 -parallel 4 ./...

quick: programs ## all tests that need no engine, without the race detector: in less than a minute
	go test -shuffle=on -p 4 $$(go list ./... | grep -vxF "$$(go list $(ENGINE_PACKAGES))")

transcripts: engine databases programs ## what people type and see
	go test -race ./cmd/mesh -run TestScripts

examples: engine ## every example and framework, including those that take too long for make test
	go test ./builder -run 'TestBuild_(Examples|Frameworks)$$' -timeout 30m -slow

docker-test: engine ## the packages that talk to the engine
	go test -race ./addons ./builder ./registry ./runner ./volumes

golden: engine databases programs docs ## rewrite all golden files, what the transcripts compare, and docs/commands.md
	go test ./command ./builder/detect -update
	UPDATE_SCRIPTS=1 go test -parallel 4 ./cmd/mesh -run TestScripts

fuzz: ## each fuzz target for FUZZTIME
	@for p in $$(grep -rlE '^func Fuzz' --include=*_test.go . | xargs -n1 dirname | sort -u); do \
		for f in $$(grep -hoE '^func Fuzz[A-Za-z0-9_]+' $$p/*_test.go | cut -c6-); do \
			echo "$$p $$f"; go test $$p -run '^$$' -fuzz "^$$f$$" -fuzztime $(FUZZTIME) || exit 1; \
		done; \
	done

bench: build engine ## the figures of docs/performance.md, against docker by hand in the same run
	scripts/bench

swarm-bench: build engine ## a server on three nodes, which scripts/swarm makes, beside one machine
	scripts/bench-swarm

bench-addons: build engine ## a gigabyte dumped, restored and backed up, beside pg_dump by hand
	scripts/bench-addons

bench-builder: build engine ## managed builds beside hand-written Dockerfiles: docs/performance.md
	scripts/base-images debian node python ruby php nginx golang deno rust java
	go run ./tools/benchbuilder $(ARGS)

bench-logs: engine ## what keeping and searching log lines costs, beside docker logs and grep: docs/performance.md
	go run ./tools/benchlogs $(ARGS)
	go test ./logs -run '^$$' -bench . -benchtime 3x

bench-router: ## the router beside nginx, in turns: docs/performance.md
	scripts/bench-router $(ARGS)

bench-compare: ## benchmarks of REF and of the work tree through benchstat: make bench-compare REF=HEAD~1
	@test -n "$(REF)" || { echo "REF is missing: make bench-compare REF=HEAD~1"; exit 2; }
	scripts/bench-compare $(REF) $(BENCHSTAT)

# Each work tree has its own cache: golangci-lint stores findings with the path of the
# tree. If that clone is gone, it can no longer read the nolint comments that belong to
# them.
lint: export GOLANGCI_LINT_CACHE = $(CURDIR)/tmp/lint
lint: ## golangci-lint and shellcheck
	go run $(GOLANGCI) run ./...
	cd tools/prometheus && go test ./... # the rules and the board in contrib, with Prometheus' own parser
	@if command -v shellcheck >/dev/null; then shellcheck scripts/* contrib/install contrib/debian/p* .ci/run; else echo "shellcheck is not installed: the scripts are not checked"; fi

fmt: ## format the code
	go run $(GOLANGCI) fmt ./...

docs: ## print docs/commands.md, words.md and settings.md from the code's own tables
	go run ./tools/docs > docs/commands.md.new && mv docs/commands.md.new docs/commands.md
	go run ./tools/docs words > docs/words.md.new && mv docs/words.md.new docs/words.md
	go run ./cmd/mesh __settings > docs/settings.md.new && mv docs/settings.md.new docs/settings.md

soak: engine ## load during deploys, upgrades and restarts, repeatedly: make soak N=10
	go test -race ./cmd/mesh -run "TestScripts/(noloss|upgrade|activation|https)$$" -count $(or $(N),5) -timeout 60m

systemd: engine ## mesh under a real systemd, in a container: restarts, reloads, crashes, build limits: make systemd N=3
	NFPM=$(NFPM) CYCLONEDX=$(CYCLONEDX) scripts/systemd $(or $(N),20)

vuln: ## check for known vulnerabilities; needs the network
	go run $(VULN) ./...

image: build ## the server as an image, from bin/mesh
	DOCKER_BUILDKIT=1 docker build --build-arg BINARY=prebuilt -t mesh/mesh:$(VERSION) .

# DRY=1 only builds dist/: archives, packages, bills of materials and checksums.
release: ## changelog, commit, tag and dist/ of a version: make release VERSION=v0.9.0 [DRY=1]
	scripts/release "$(VERSION)" $(NFPM) $(CYCLONEDX)

release-check: ## build a release twice, in two places, and compare every byte
	scripts/release-check $(NFPM) $(CYCLONEDX)

check: ## what CI runs
	.ci/run

clean: ## remove build output
	rm -rf bin dist
