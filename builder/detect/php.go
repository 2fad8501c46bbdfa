package detect

import (
	"maps"
	"regexp"
	"slices"
	"strings"
)

var phpLines = []string{"8.4", "8.3", "8.2", "8.1", "8.5", "8.0", "7.4"}

// phpBuiltIn are extensions that the image has.
var phpBuiltIn = words(`core ctype curl date dom fileinfo filter ftp hash iconv json libxml mbstring mysqlnd openssl pcre
pdo pdo_sqlite phar posix random readline reflection session simplexml sodium spl sqlite3 standard tokenizer xml xmlreader xmlwriter zlib`)

// phpPECL are extensions that are not part of PHP's source.
var phpPECL = words(`apcu imagick memcached mongodb redis xdebug amqp grpc protobuf igbinary swoole
ast ds event mailparse mcrypt msgpack oauth pcov rdkafka ssh2 uuid yaml`)

// phpNeeds are the packages that extensions are compiled against.
var phpNeeds = map[string]needs{
	"amqp":      {run: "librabbitmq-dev"},
	"bz2":       {run: "libbz2-dev"},
	"enchant":   {run: "libenchant-2-dev"},
	"event":     {run: "libevent-dev libssl-dev"},
	"ffi":       {run: "libffi-dev"},
	"grpc":      {run: "zlib1g-dev"},
	"imap":      {run: "libc-client-dev libkrb5-dev"},
	"mcrypt":    {run: "libmcrypt-dev"},
	"pspell":    {run: "libpspell-dev"},
	"rdkafka":   {run: "librdkafka-dev"},
	"snmp":      {run: "libsnmp-dev"},
	"ssh2":      {run: "libssh2-1-dev"},
	"tidy":      {run: "libtidy-dev"},
	"uuid":      {run: "uuid-dev"},
	"yaml":      {run: "libyaml-dev"},
	"gd":        {run: "libpng-dev libjpeg62-turbo-dev libfreetype6-dev"},
	"gmp":       {run: "libgmp-dev"},
	"imagick":   {run: "libmagickwand-dev"},
	"intl":      {run: "libicu-dev"},
	"ldap":      {run: "libldap2-dev"},
	"memcached": {run: "libmemcached-dev zlib1g-dev libssl-dev"},
	"pdo_pgsql": {run: "libpq-dev"},
	"pgsql":     {run: "libpq-dev"},
	"soap":      {run: "libxml2-dev"},
	"xsl":       {run: "libxslt1-dev"},
	"zip":       {run: "libzip-dev"},
}

func words(s string) []string { return strings.Fields(s) }

type composerJSON struct {
	Require      map[string]string
	Config       struct{ Platform map[string]string }
	Repositories any
}

// php runs PHP's own server, with four workers: it needs no configuration.
func php(s *source, p *plan) error {
	var c composerJSON
	if err := s.json("composer.json", &c); err != nil {
		return err
	}
	v := firstSaid(said{c.Config.Platform["php"], "config.platform.php in composer.json"}, said{c.Require["php"], "php in composer.json"}, s.tool("php"), said{s.line(".php-version"), ".php-version"})
	version := p.version("PHP", v, 2, phpLines...)
	var err error
	if p.release, err = debian(s, "PHP", version); err != nil {
		return err
	}
	p.image, p.entrypoint = "php:"+version+"-cli-"+p.release, true
	p.env = []string{"PHP_CLI_SERVER_WORKERS=4"}
	for dependency, name := range map[string]string{"laravel/framework": "Laravel", "symfony/framework-bundle": "Symfony", "slim/slim": "Slim"} {
		if c.Require[dependency] != "" {
			p.Framework = name
		}
	}
	phpExtensions(p, c, version)
	// Composer's image is based on Alpine, so other build steps run in the last
	// stage.
	p.packages, p.buildPackages = append(p.packages, p.buildPackages...), nil
	p.final = []string{"COPY --chown=%OWNER . ."}
	if s.has("composer.json") {
		p.found("composer install", s.first("composer.lock", "composer.json"))
		cache := "RUN --mount=type=cache,target=/tmp/cache "
		// Composer's image has another PHP, without the extensions. A lock file has
		// fixed the versions already; otherwise they are chosen for the PHP that
		// runs the program.
		options, platform := " --no-dev --no-interaction --no-progress --ignore-platform-reqs", ""
		if !s.has("composer.lock") {
			options = " --no-dev --no-interaction --no-progress --ignore-platform-req='ext-*'"
			if platform = "composer config --global platform.php " + version + ".99 && "; c.Config.Platform["php"] != "" {
				platform = ""
			}
		}
		p.buildImage = "composer:2"
		if strings.Contains(s.read("composer.json"), `"path"`) {
			p.found("copies everything before installing", "a path in composer.json")
			p.build = []string{"COPY . .", cache + platform + "composer install --optimize-autoloader" + options}
		} else {
			p.build = append(copies(s.present("composer.json", "composer.lock")), cache+platform+"composer install --no-scripts --no-autoloader"+options, "COPY . .", cache+"composer dump-autoload --optimize --no-dev")
		}
		p.final = []string{"COPY --from=build --chown=%OWNER /app /app"}
	}
	if command := s.buildCommand(p, "", ""); command != "" {
		p.final = append(p.final, "RUN "+withConfig+readConfig+command)
	}
	root := "."
	for _, d := range []string{"public", "web", "webroot"} {
		if s.has(d + "/index.php") {
			root = d
			break
		}
	}
	found, why := "php -S 0.0.0.0:$PORT -t "+root, root+"/index.php"
	if root == "." {
		p.open = true
		why = "index.php"
		if !s.has("index.php") {
			found = ""
		}
	}
	return s.start(p, found, why, "public/index.php or index.php")
}

// peclOptions answer the questions of an extension's installer.
func peclOptions(extensions []string) string {
	if slices.Contains(extensions, "imap") {
		return `--configureoptions 'with-kerberos="yes" with-imap-ssl="yes"' `
	}
	return ""
}

// phpExtensions compiles the extensions in composer.json that the image lacks.
func phpExtensions(p *plan, c composerJSON, version string) {
	var own, pecl []string
	for _, n := range slices.Sorted(maps.Keys(c.Require)) {
		ext, ok := strings.CutPrefix(n, "ext-")
		if ext = strings.ToLower(ext); !ok || slices.Contains(phpBuiltIn, ext) || !regexp.MustCompile(`^[a-z0-9_]+$`).MatchString(ext) {
			continue
		}
		if ext == "opcache" && atLeast(version, "8.5") {
			continue // it is a part of PHP from then on
		}
		if slices.Contains(phpPECL, ext) || ext == "imap" && atLeast(version, "8.4") {
			pecl = append(pecl, ext)
		} else {
			own = append(own, ext)
		}
		p.found("extension "+ext, n+" in composer.json")
		if t, ok := phpNeeds[ext]; ok {
			p.packages = append(p.packages, strings.Fields(t.run)...)
		}
	}
	if slices.Contains(own, "gd") {
		p.base = append(p.base, "RUN docker-php-ext-configure gd --with-freetype --with-jpeg")
	}
	if slices.Contains(own, "imap") {
		p.base = append(p.base, "RUN docker-php-ext-configure imap --with-kerberos --with-imap-ssl")
	}
	if len(own) > 0 {
		p.base = append(p.base, "RUN docker-php-ext-install "+strings.Join(own, " "))
	}
	if len(pecl) > 0 {
		p.base = append(p.base, "RUN pecl install "+peclOptions(pecl)+strings.Join(pecl, " ")+" && docker-php-ext-enable "+strings.Join(pecl, " "))
	}
}
