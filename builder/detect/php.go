package detect

import (
	"regexp"
	"slices"
	"strings"
)

var phpLines = []string{"8.4", "8.3", "8.2", "8.1", "8.5", "8.0", "7.4"}

func words(s string) []string { return strings.Fields(s) }

type composerJSON struct {
	Require      map[string]string
	Config       struct{ Platform map[string]string }
	Repositories any
}

// phpFrameworks are the dependencies that name a framework, and what its image needs in
// the environment: no framework may start as in development, and what it logs belongs to
// the output. A config var of that name wins.
var phpFrameworks = []struct{ dependency, name, env string }{
	{"laravel/framework", "Laravel", "LOG_CHANNEL=stderr"},
	{"symfony/framework-bundle", "Symfony", "APP_ENV=prod"}, // the committed .env says dev
	{"slim/slim", "Slim", ""},
	{"cakephp/cakephp", "CakePHP", ""},
	{"codeigniter4/framework", "CodeIgniter", "CI_ENVIRONMENT=production"},
	{"yiisoft/yii2", "Yii", ""},
}

// php runs Apache with PHP in it, from the official image, unless something else is to be
// started.
func php(s *source, p *plan) error {
	var c composerJSON
	if err := s.json("composer.json", &c); err != nil {
		return err
	}
	v := firstSaid(said{c.Config.Platform["php"], "config.platform.php in composer.json"}, said{c.Require["php"], "php in composer.json"}, s.tool("php"), said{s.line(".php-version"), ".php-version"})
	locked := phpLocked(s, v)
	version := p.version("PHP", v, 2, locked...)
	if p.want.text == "" && version != lines(choose(v.text, phpLines...), 2) {
		f := p.fact("PHP " + version)
		f.Why += "; composer.lock has packages that run on no newer one"
	}
	var err error
	if p.release, err = debian(s, "PHP", version); err != nil {
		return err
	}
	p.entrypoint = true
	for _, f := range phpFrameworks {
		if c.Require[f.dependency] == "" {
			continue
		}
		p.Framework = f.name
		if f.env != "" {
			p.env = append(p.env, f.env)
		}
		break
	}
	root := phpRoot(s)
	why := phpUsed(s, c, root)
	for _, ext := range s.phpINIExtensions(root) {
		if c.Require["ext-"+ext] == "" {
			why[ext] = "an extension= in PHP's settings"
		}
	}
	for ext, from := range why {
		if c.Require == nil {
			c.Require = map[string]string{}
		}
		c.Require["ext-"+ext] = from
	}
	phpExtensions(p, c, version, why)
	p.final = []string{"COPY --chown=%OWNER . ."}
	if s.has("composer.json") {
		phpComposer(s, p)
	}
	p.open = root.dir == "."
	if p.Framework == "Symfony" && s.has("importmap.php") {
		p.found("builds with php bin/console asset-map:compile", "importmap.php")
		p.build = append(p.build, "RUN "+withConfig+readConfig+"php bin/console importmap:install && php bin/console asset-map:compile")
	}
	if command := s.set.BuildCommand; command != "" && (!usesNode.MatchString(command) || !s.has("package.json")) {
		s.buildCommand(p, "", "")
		if len(p.build) == 0 {
			p.build, p.final = []string{"COPY . ."}, []string{"COPY --from=build --chown=%OWNER /app /app"}
		}
		p.build = append(p.build, "RUN "+withConfig+readConfig+command)
	}
	if err := phpAssets(s, p, root.dir); err != nil {
		return err
	}
	phpFirstPush(s, p)
	return phpServe(s, p, version, root)
}

// phpLocked are the lines of PHP on which all packages in the lock file run, or all if
// there is none: whoever locked the versions had an older PHP than today's.
func phpLocked(s *source, v said) []string {
	var lock struct {
		Packages []struct{ Require map[string]any }
	}
	if s.json("composer.lock", &lock) != nil {
		return phpLines // Composer reports it
	}
	var locked []string
	for _, line := range phpLines {
		if !slices.ContainsFunc(lock.Packages, func(l struct{ Require map[string]any }) bool {
			wants, _ := l.Require["php"].(string)
			return wants != "" && !phpAllows(wants, line)
		}) && (v.text == "" || phpAllows(v.text, line)) {
			locked = append(locked, line)
		}
	}
	if len(locked) == 0 {
		return phpLines
	}
	return locked
}

// phpAllows reports whether a constraint of Composer allows a line of PHP. One that
// cannot be read allows all.
func phpAllows(constraint, line string) bool {
	c := plainConstraint(strings.ReplaceAll(constraint, " - ", ".999 - "))
	return allows(c, line) || !allows(c+" || *", "1.0.0")
}

// phpComposer adds the installation of the packages, by the PHP that runs the program and
// with its extensions: Composer refuses what does not fit, and scripts of packages run
// the app. They run once the whole tree is there, as on Heroku.
func phpComposer(s *source, p *plan) {
	const cache, install = "RUN --mount=type=cache,target=/tmp/cache ", "composer install --no-dev --no-interaction --no-progress "
	p.build = []string{"COPY --from=composer:2 /usr/bin/composer /usr/bin/", "ENV COMPOSER_ALLOW_SUPERUSER=1 COMPOSER_CACHE_DIR=/tmp/cache"}
	p.final = []string{"COPY --from=build --chown=%OWNER /app /app"}
	if p.install.text != "" {
		p.build = append(p.build, "COPY . .", cache+withConfig+readConfig+p.installs("", ""))
		return
	}
	p.found("composer install", s.first("composer.lock", "composer.json"))
	files := copies(s.present("composer.json", "composer.lock", "symfony.lock", "patches"))
	whole := strings.Contains(s.read("composer.json"), `"path"`)
	if whole {
		p.found("copies everything before installing", "a path in composer.json")
		files = []string{"COPY . ."}
	}
	mounts, exports := secretsIn("$COMPOSER_AUTH") // of private packages
	download := cache + mounts + exports + install + "--no-scripts --no-autoloader"
	switch {
	case s.has("composer.lock"):
		// Composer's own image has what downloads and unpacks, but another PHP and no
		// extensions: that is checked below.
		p.before = stage{"packages", "composer:2", append(files, download+" --ignore-platform-reqs")}
		p.build = append(p.build, "COPY --from=packages /app ./", "COPY . .")
	case whole:
		p.buildPackages = append(p.buildPackages, "git", "unzip")
		p.build = append(p.build, files...)
	default:
		p.buildPackages = append(p.buildPackages, "git", "unzip")
		p.build = append(append(p.build, files...), download, "COPY . .")
	}
	p.build = append(p.build, cache+withConfig+readConfig+install+"--optimize-autoloader")
}

var usesNode = regexp.MustCompile(`\b(npm|npx|pnpm|yarn|bun|bunx|node|vite)\b`)

// phpAssets builds the front end of a PHP app: Vite, Mix or Encore write into the folder
// that is served. The stage has PHP as well, with the packages of Composer: a front end
// may import from vendor/, and its build may call PHP (Laravel's Wayfinder does).
func phpAssets(s *source, p *plan, root string) error {
	var j packageJSON
	if err := s.json("package.json", &j); err != nil {
		return err
	}
	script := ""
	for _, name := range []string{"heroku-postbuild", "build", "production", "prod"} {
		if j.Scripts[name] != "" {
			script = name
			break
		}
	}
	command, why := "", ""
	if script != "" {
		command, why = packageManager(s, p, j, nodeDefault).name+" run "+script, "scripts."+script+" in package.json"
	}
	if usesNode.MatchString(s.set.BuildCommand) {
		command, why = s.set.BuildCommand, "build-command"
	}
	if command == "" || !s.has("package.json") {
		return nil
	}
	install, cache, err := nodeAssets(s, p, j)
	if err != nil {
		return err
	}
	p.found("builds with "+command, why)
	p.assets = install
	if len(p.build) > 0 {
		p.assets = append(p.assets, "COPY --from=build /app ./")
	} else {
		p.assets = append(p.assets, "COPY . .")
	}
	p.assets = append(p.assets, "RUN "+cache+withConfig+readConfig+command)
	if root == "." {
		p.assets = append(p.assets, "RUN rm -rf node_modules")
		p.final = []string{"COPY --from=assets --chown=%OWNER /app /app"}
	} else {
		p.final = append(p.final, "COPY --from=assets --chown=%OWNER /app/"+root+" "+root)
	}
	return nil
}

// phpFirstPush says what the frameworks need besides the image.
func phpFirstPush(s *source, p *plan) {
	switch p.Framework {
	case "Laravel":
		p.wants(s, "APP_KEY", "php artisan key:generate --show")
		if s.dir("database/migrations") {
			p.migrates(s, "php artisan migrate --force", "database/migrations")
		}
	case "Symfony":
		if s.dir("migrations") {
			p.migrates(s, "php bin/console doctrine:migrations:migrate --no-interaction", "migrations")
		}
	}
}
