package command

// What several rows say.
const (
	sayDatabases = "mesh runs no databases; run one beside it, and give apps its address: ssh mesh config:set -a STACK DATABASE_URL=- < url.txt"
	sayStorage   = "apps keep no files: what an instance writes is gone after the next deployment. Keep files in an object store, and data in a database beside mesh"
	sayCron      = "mesh has no scheduler; run this from cron on any machine: ssh mesh run -a STACK --detach -- COMMAND"
	sayCerts     = "nothing to do: with --https-addr the router gets and renews a certificate for every host by itself; see: ssh mesh certs -a STACK"
	sayRouter    = "nothing to do: the router is built in and sends requests to $PORT of the web service; see: ssh mesh domains -a STACK"
	sayNetwork   = "every stack has a private network of its own; let one reach another with: ssh mesh stacks:link OTHER -a STACK"
	sayPacks     = "mesh has no buildpacks: it builds with the Dockerfile of the repository, or generates one; print it with: ssh mesh build:dockerfile -a STACK"
	sayDrains    = "mesh keeps the lines itself (ssh mesh help build:set: log-size, log-age, log-rate) and sends them elsewhere with: ssh mesh drains:add -a STACK URL"
	sayPorts     = "nothing to do for HTTP: the router sends requests to $PORT of web; a TCP port of the server: ssh mesh svc:publish -a STACK SERVICE --tcp PORT"
	sayForge     = "mesh is not connected to GitHub or GitLab; push from CI: git push ssh://mesh@HOST:PORT/STACK HEAD:main"
	sayReview    = "mesh has no review apps; push the branch to a stack of its own: git push ssh://mesh@HOST:PORT/STACK HEAD:main"
	sayPipelines = "mesh has no pipelines; deploy the image of one stack to another with: ssh mesh promote TO -a FROM"
	sayKeys      = "access goes by SSH key: ssh mesh ssh-keys:add NAME --role deploy --stack STACK < key.pub"
	sayAccount   = "mesh has no accounts and no log-in: your SSH key says who you are"
	sayHost      = "nothing to set up for each app: one server runs all stacks; see: ssh mesh doctor"
	sayChecks    = "mesh always checks new instances before it switches traffic to them; change what it asks for with: ssh mesh build:set -a STACK health=/up"
	sayDocker    = "mesh does not pass options to Docker; limits are: ssh mesh svc:update -a STACK --memory 512m --cpus 0.5 web"
	sayPlugins   = "mesh has no plugins"
	sayScheduler = "nothing to set: instances run in the Docker Engine of this machine; change their number with: ssh mesh ps:scale -a STACK web=2"
	sayForward   = "mesh forwards no ports to instances; run a program inside one with: ssh mesh enter -a STACK web.1 -- COMMAND"
	sayLabs      = "mesh has no optional features"
	saySleep     = "mesh does not scale by itself; set the number of instances with: ssh mesh ps:scale -a STACK web=2"
	sayWebhooks  = "a program can follow the events of a stack: ssh mesh logs -a STACK -t --source mesh --json; alerts go to a webhook or a chat with: ssh mesh notify:add NAME URL"
	sayAllStacks = "there is no command for all stacks; use a loop over: ssh mesh stacks --json"
	sayBasicAuth = "the router asks for passwords: ssh mesh access:set -a STACK --user NAME --password-from - < password"
	sayLogFiles  = "the router's log of a stack is: ssh mesh logs -a STACK --source router"
)

// The rows follow the command lists of the tools: devcenter.heroku.com/articles/heroku-cli-commands,
// dokku.com/docs (0.38, with the official plugins), kamal-deploy.org/docs/commands (version 2).

var herokuWords = []word{
	{typed: "create", same: "stacks:create", need: "NAME"},
	{typed: "destroy, delete, apps:delete, apps:remove, apps:rm", same: "stacks:destroy"},
	{typed: "rename", same: "stacks:rename"},
	{typed: "info", same: "stacks:info"},
	{typed: "open, apps:open", same: "urls"},
	{typed: "apps:errors", say: "the answers of a stack with their status are in: ssh mesh logs -a STACK --source router"},
	{typed: "apps:favorites*, apps:join, apps:leave, join, leave, apps:transfer*, apps:stacks*", say: sayAccount},
	{typed: "apps:lock", same: "lock"},
	{typed: "apps:unlock", same: "unlock"},
	{typed: "fork, apps:fork", same: "stacks:clone", need: "NEW"},
	{typed: "config:add", same: "config:set"},
	{typed: "config:remove, config:rm, config:delete, config:del", same: "config:unset"},
	{typed: "dynos", same: "ps"},
	{typed: "tail", same: "logs -t"},
	{typed: "restart, dyno:restart", same: "ps:restart"},
	{typed: "scale, dyno:scale, ps:resize:count", same: "ps:scale"},
	{typed: "stop, dyno:stop", same: "ps:stop"},
	{typed: "start", same: "ps:start"},
	{typed: "kill, ps:kill, dyno:kill", same: "ps:restart", need: "SERVICE"},
	{typed: "ps:type, ps:resize, dyno:resize, dyno:type", say: "instances have no sizes; set limits with: ssh mesh svc:update -a STACK --memory 512m --cpus 0.5 web"},
	{typed: "ps:autoscale*", say: saySleep},
	{typed: "ps:wait", say: "nothing to wait for: a push, config:set and ps:restart return when the new instances serve"},
	{typed: "ps:exec, run:inside", same: "enter", need: "web.1"},
	{typed: "ps:forward, ps:socks", say: sayForward},
	{typed: "run:detached, run:detach", same: "run --detach"},
	{typed: "console", same: "run", need: "-- COMMAND"},
	{typed: "releases:rollback, releases:revert", same: "rollback"},
	{typed: "releases:output", same: "deployments:show"},
	{typed: "releases:retry, releases:redeploy", same: "ps:rebuild"},
	{typed: "domains:info, domains:wait, domains:update", say: sayCerts},
	{typed: "domains:clear", say: "remove them one by one: ssh mesh domains:remove -a STACK HOST"},
	{typed: "certs:auto*, certs:generate, certs:key, certs:chain, certs:update, ssl*", say: sayCerts},
	{typed: "certs:info", same: "certs"},
	{typed: "keys:clear", say: "remove them one by one: ssh mesh ssh-keys:remove NAME"},
	{typed: "members, members:list, user:list, users, users:list, collaborators", same: "ssh-keys"},
	{typed: "access:add, access:remove, access:update, access:rm, access:delete, members*, teams*, orgs*, acl*, user*, collaborators*", say: sayKeys},
	{typed: "auth:whoami", same: "whoami"},
	{typed: "login, logout, auth*, authorizations*, clients*, sessions*, 2fa*", say: sayAccount},
	{typed: "pipelines:promote", same: "promote", need: "TO -a FROM"},
	{typed: "pipelines*", say: sayPipelines},
	{typed: "reviewapps*", say: sayReview},
	{typed: "addons*, pg*, psql, redis*, data*, kafka*, postgres*, mysql*, mariadb*, mongo*, rabbitmq*, memcached*, elasticsearch*, meilisearch*, clickhouse*, couchdb*, nats*, typesense*, solr*, rethinkdb*", say: sayDatabases},
	{typed: "drains:get, drains:info", same: "drains"},
	{typed: "drains:delete, drains:destroy", same: "drains:remove"},
	{typed: "log-drains, log-drains:list", same: "drains"},
	{typed: "webhooks*, notifications*", say: sayWebhooks},
	{typed: "buildpacks*", say: sayPacks},
	{typed: "stack:set, apps:stacks:set", say: "the Dockerfile decides what the app runs on; the settings of a stack are: ssh mesh build -a STACK"},
	{typed: "builds:create, builds:new", same: "deploy"},
	{typed: "builds:info, builds:output, builds:logs", same: "deployments:show"},
	{typed: "container:login", same: "registry:login", need: "HOST USER"},
	{typed: "container:logout", same: "registry:logout", need: "HOST"},
	{typed: "container*", say: "send an image from your machine: docker save IMAGE | ssh mesh deploy -a STACK --load IMAGE"},
	{typed: "git:remote, git:clone", say: "the address of a stack's repository is: ssh://mesh@HOST:PORT/STACK; add it with: git remote add mesh ssh://mesh@HOST:PORT/STACK"},
	{typed: "features*, labs*", say: sayLabs},
	{typed: "ci*", say: "run the tests before the push: the release command runs before a push goes live; ssh mesh stacks:set-release-command -a STACK -- COMMAND"},
	{typed: "local*", say: "run the image on your machine with docker; the build command is printed after: ssh mesh build:set -a STACK show-command=true"},
	{typed: "status, dashboard", same: "stacks"},
	{typed: "dashboard:metrics, apps:metrics", same: "metrics"},
	{typed: "regions*, spaces*, usage*, plans*, telemetry*, base*", say: "mesh is your own server: it has no regions, plans or bills"},
	{typed: "plugins*", say: sayPlugins},
	{typed: "autocomplete", same: "completion", need: "bash"},
	{typed: "commands, docs, which", same: "help"},
	{typed: "update", same: "upgrade"},
	{typed: "config:show, config:vars", same: "config --show"},
	{typed: "maintenance:enable", same: "maintenance:on"},
	{typed: "maintenance:disable", same: "maintenance:off"},
}

var dokkuWords = []word{
	{typed: "apps:locked", same: "lock --show"},
	{typed: "lock:status, lock:show, lock:info", same: "lock --show", alone: true},
	{typed: "report, apps:report, config:report", same: "stacks:info"},
	{typed: "config:keys", same: "config"},
	{typed: "config:clear", say: "remove them by name, as one release: ssh mesh config:unset -a STACK NAME; all of them: ssh mesh config:unset -a STACK --all"},
	{typed: "config:bundle", same: "config:export --format envfile"},
	{typed: "ps:report", same: "ps"},
	{typed: "ps:inspect", same: "ps --json"},
	{typed: "ps:restore, ps:retire", say: "nothing to do: mesh starts and retires instances by itself; see: ssh mesh ps -a STACK"},
	{typed: "ps:set", same: "build:set", as: property("ps:set", "stop-timeout-seconds", "stop-timeout=%ss", "start-cmd", "start-command=%s"), need: "stop-timeout=30s"},
	{typed: "checks:report, checks:show", same: "build"},
	{typed: "checks:set", same: "build:set", as: property("checks:set", "path", "health=%s", "timeout", "check-timeout=%ss", "wait-to-retire", "drain=%ss"), need: "health=/up"},
	{typed: "checks*, zero-downtime*", say: sayChecks},
	{typed: "git:set", same: "build:set", as: property("git:set", "deploy-branch", "branch=%s"), need: "branch=main"},
	{typed: "git:report, git:status", same: "build"},
	{typed: "git:from-image", same: "deploy --image", as: imageArgs("--image"), need: "IMAGE"},
	{typed: "git:load-image", same: "deploy --load", as: imageArgs("--load"), need: "IMAGE"},
	{typed: "git:public-key, git:generate-deploy-key", same: "git:deploy-key"},
	{typed: "git:from-archive, git:from-directory, git:sync, git:initialize", say: "send the files instead: git push, or: tar cz . | ssh mesh deploy -a STACK"},
	{typed: "git:auth, git:allow-host", say: "mesh fetches only submodules; give the stack's key to their host: ssh mesh git:deploy-key -a STACK"},
	{typed: "git:unlock", same: "unlock"},
	{typed: "builder:set", same: "build:set", as: property("builder:set", "build-dir", "root=%s", "selected", ""), need: "root=DIR"},
	{typed: "builder-dockerfile:set", same: "build:set", as: property("builder-dockerfile:set", "dockerfile-path", "dockerfile=%s"), need: "dockerfile=PATH"},
	{typed: "builder:report, builder-dockerfile:report, builder:show, docker-options:report, docker-options:list, app-json:report", same: "build"},
	{typed: "builder*, builder-dockerfile*, builder-herokuish*, builder-pack*, builder-nixpacks*, builder-railpack*, builder-lambda*, builder-null*", say: sayPacks},
	{typed: "app-json*", say: "mesh reads app.json at the top of the tree; its other settings are: ssh mesh build -a STACK"},
	{typed: "docker-options*", say: sayDocker},
	{typed: "resource:report, resource:list", same: "svc"},
	{typed: "resource:limit", same: "svc:update", as: limitArgs(false), need: "--memory 512m --cpus 0.5 SERVICE"},
	{typed: "resource:limit-clear", same: "svc:update", as: limitArgs(true), need: `--memory "" --cpus "" SERVICE`},
	{typed: "resource*", say: "limits of an instance are: ssh mesh svc:update -a STACK --memory 512m --cpus 0.5 web"},
	{typed: "limit*", say: "limits of an instance are: ssh mesh svc:update -a STACK --memory 512m --cpus 0.5 web"},
	{typed: "domains:reset, domains:enable, domains:disable, domains:clear-global, domains:add-global, domains:set-global, domains:remove-global, domains:report:global", say: "add and remove hosts one by one: ssh mesh domains:add -a STACK HOST; the base domain of all stacks is the server's --domain"},
	{typed: "redirect, redirect:list, redirect:report", same: "domains"},
	{typed: "redirect:set", same: "domains:add", as: redirectArgs, need: "HOST --redirect-to HOST"},
	{typed: "redirect:unset", same: "domains:remove", need: "HOST"},
	{typed: "storage*", say: sayStorage},
	{typed: "cron*, scheduler:run", say: sayCron},
	{typed: "letsencrypt, letsencrypt:list, letsencrypt:report, letsencrypt:ls, letsencrypt:active", same: "certs"},
	{typed: "letsencrypt*", say: sayCerts},
	{typed: "ports*, proxy:ports*", say: sayPorts},
	{typed: "proxy*, nginx*, openresty*, caddy*, traefik*, haproxy*", say: sayRouter},
	{typed: "nginx:access-logs, nginx:error-logs, caddy:logs, traefik:logs, proxy:logs", say: sayLogFiles},
	{typed: "network*", say: sayNetwork},
	{typed: "scheduler*, scheduler-docker-local*, scheduler-k3s*, scheduler-kubernetes*, scheduler-nomad*", say: sayScheduler},
	{typed: "logs:failed", same: "deployments:show"},
	{typed: "logs:set, logs:report, logs:vector-logs, logs:vector-start, logs:vector-stop, logs:vector*", say: sayDrains},
	{typed: "run:retire", same: "run:stop", need: "NAME"},
	{typed: "url", same: "urls"},
	{typed: "events, events:list, events:report", same: "audit"},
	{typed: "events*", say: "events are always kept; see: ssh mesh audit, and those of one stack: ssh mesh logs -a STACK --source mesh"},
	{typed: "cleanup, repo:gc, image:prune, builds:prune", same: "gc", as: only("gc")},
	{typed: "repo:purge-cache", same: "build:cache --clear", as: only("build:cache", "--clear")},
	{typed: "repo*", say: "mesh keeps its repositories tidy by itself; old images go with: ssh mesh gc"},
	{typed: "builds:set, builds:report", same: "build"},
	{typed: "plugin*, trace*, common*", say: sayPlugins},
	{typed: "http-auth:report, http-auth:show-config", same: "access"},
	{typed: "http-auth:add-allowed-ip", same: "access:allow", need: "CIDR"},
	{typed: "http-auth*", say: sayBasicAuth},
	{typed: "shell", same: "run sh"},
	{typed: "registry:set, registry:report", same: "registry"},
	{typed: "maintenance:custom-page", say: "give the page when you turn it on: ssh mesh maintenance:on -a STACK --page < page.html"},
	{typed: "hostname, copy-file*, copy-files*", say: "put files into the image with COPY in the Dockerfile; secrets are config vars: ssh mesh config:set -a STACK KEY=- < file"},
	{typed: "tags*", say: "release the image of another stack with: ssh mesh promote TO -a FROM; an earlier one with: ssh mesh rollback -a STACK v1"},
}

var kamalWords = []word{
	{typed: "app:logs", same: "logs"},
	{typed: "app:details, app:containers, app:stale_containers", same: "ps"},
	{typed: "details, app:version", same: "stacks:info"},
	{typed: "app:images", same: "releases"},
	{typed: "app:exec", same: "run", as: execArgs, need: "-- COMMAND"},
	{typed: "app:boot", same: "ps:restart"},
	{typed: "app:start", same: "ps:start"},
	{typed: "app:stop", same: "ps:stop"},
	{typed: "app:maintenance", same: "maintenance:on"},
	{typed: "app:live", same: "maintenance:off"},
	{typed: "app:remove, remove", same: "stacks:destroy"},
	{typed: "lock:acquire", same: "lock", as: messageArgs, need: "REASON"},
	{typed: "lock:release", same: "unlock", alone: true},
	{typed: "redeploy", same: "ps:rebuild"},
	{typed: "prune, prune:all, prune:images, prune:containers", same: "gc", as: only("gc")},
	{typed: "env:push, env:delete, secrets:set", say: "set config vars instead: ssh mesh config:import -a STACK < .env; they are sealed on the server"},
	{typed: "secrets:print, secrets:list, secrets, env, env:list", same: "config --show"},
	{typed: "secrets*, env*", say: "secrets are config vars: ssh mesh config:set -a STACK KEY=- < file"},
	{typed: "setup, init, server:bootstrap", say: "there is nothing to set up: push, and the stack exists; git push ssh://mesh@HOST:PORT/STACK main"},
	{typed: "server:exec", say: sayHost},
	{typed: "accessory*, accessories*", say: sayDatabases},
	{typed: "build:push, build:deliver, build:create, build:pull, build:dev, build:remove, build:details", say: "the server builds what is pushed: git push mesh main; an image of your own: docker save IMAGE | ssh mesh deploy -a STACK --load IMAGE"},
	{typed: "registry:setup, registry:remove", same: "registry"},
	{typed: "healthcheck*", say: sayChecks},
}

var dockerWords = []word{
	{typed: "exec, compose:exec, docker:exec", same: "enter", need: "web.1 -- COMMAND"},
	{typed: "images, docker:images, image:ls, image:list", same: "releases"},
	{typed: "docker:ps, compose:ps, container:ls", same: "ps"},
	{typed: "stats, docker:stats, compose:top, compose:stats", same: "top"},
	{typed: "inspect, docker:inspect", same: "ps --json"},
	{typed: "docker:logs, compose:logs", same: "logs"},
	{typed: "docker:run, compose:run", same: "run"},
	{typed: "compose:restart, docker:restart", same: "ps:restart"},
	{typed: "compose:stop, docker:stop", same: "ps:stop"},
	{typed: "compose:start, docker:start", same: "ps:start"},
	{typed: "compose:config", same: "build"},
	{typed: "system:prune, image:prune, builder:prune, volume:prune", same: "gc", as: only("gc")},
	{typed: "system:df", same: "doctor"},
	{typed: "up, down, compose*, docker*, docker-compose*", say: "mesh runs no compose files: each process is a line of the Procfile, and a push deploys them all; git push mesh main"},
	{typed: "pull, push, tag", say: "push with git: git push mesh main; deploy an image with: ssh mesh deploy -a STACK --image IMAGE"},
	{typed: "rm, rmi", say: "mesh removes what is not needed by itself; a whole stack goes with: ssh mesh stacks:destroy -a STACK --confirm STACK"},
	{typed: "volume*, volumes*", say: sayStorage},
	{typed: "swarm*, node*, nodes*", say: "mesh runs on one machine; see: ssh mesh server:info"},
	{typed: "attach", same: "logs -t"},
	{typed: "cp", say: "copy files with the client: mesh ps:copy web.1:/path . ; over ssh it is a tar stream: ssh mesh ps:copy -a STACK web.1:/path | tar x"},
	{typed: "scp, sftp", say: "run it on your machine: sftp STACK@HOST, and scp FILE STACK@HOST:/web.1/path"},
}

var widemeshWords = []word{
	{typed: "create:stack", say: "name the stack: ssh mesh stacks:create NAME; the first push does this as well"},
	{typed: "stack:delete", same: "stacks:destroy"},
	{typed: "endpoint:create", same: "domains:add", need: "HOST"},
	{typed: "endpoint:delete, endpoint:rm", same: "domains:remove", need: "HOST"},
	{typed: "svc:create", same: "svc:update", as: serviceArgs, need: "NAME --command COMMAND"},
	{typed: "svc:remove, svc:destroy", same: "svc:delete", need: "NAME"},
	{typed: "stack:config", same: "config"},
	{typed: "stack:config:set", same: "config:set", need: "NAME=VALUE"},
	{typed: "stack:config:unset", same: "config:unset", need: "NAME"},
	{typed: "stack:config:get", same: "config:get", need: "NAME"},
	{typed: "stack:config:list, stack:config:show", same: "config"},
	{typed: "stack:deploy", same: "deploy"},
	{typed: "stack:logs", same: "logs"},
	{typed: "stack:ps", same: "ps"},
	{typed: "releases:show", same: "releases:info", need: "vN"},
	{typed: "deployments:logs", same: "deployments:show"},
}
