package detect

import (
	"path"
	"regexp"
	"slices"
	"strings"
)

// PHP is served by Apache with PHP in it, from the official image php:VERSION-apache:
// docs/decisions/0012-apache-for-php.md.

// phpRoots are the folders that frameworks serve, the first one with an index.php.
var phpRoots = words("public web webroot htdocs public_html docroot html www")

// documentRoot is the folder that is served, and what says so.
type documentRoot struct {
	dir, why string
	config   string // Apache's own, which Heroku's command names
	ini      string // PHP's own, likewise
	unused   string // nginx's own, likewise
	given    bool   // Heroku's command names the server
}

// herokuPHP is the command that starts a server on Heroku, with options and the document
// root (https://devcenter.heroku.com/articles/custom-php-settings).
var herokuPHP = regexp.MustCompile(`^(?:\./)?(?:vendor/bin/)?heroku-(?:php|hhvm)-(apache2|nginx)(?:\s+(.*))?$`)

// phpRoot is the document root: the one in a Procfile made for Heroku, or a folder with
// an index.php.
func phpRoot(s *source) documentRoot {
	command := s.set.StartCommand
	if command == "" {
		command = s.process("web")
	}
	if m := herokuPHP.FindStringSubmatch(command); m != nil {
		r := documentRoot{dir: ".", why: "the start command for Heroku", given: true}
		f := strings.Fields(m[2])
		for i := 0; i < len(f); i++ {
			option := f[i]
			switch {
			case option == "-v":
			case slices.Contains(words("-C -c -F -f -i -l -p"), option) && i+1 < len(f):
				i++
				if name := strings.Trim(f[i], `"'`); plainPath.MatchString(name) && s.has(name) {
					switch {
					case option == "-C" && m[1] == "apache2":
						r.config = name
					case option == "-C":
						r.unused = name
					case option == "-i":
						r.ini = name
					}
				}
			case !strings.HasPrefix(option, "-"):
				if dir := path.Clean(strings.Trim(option, `"'`)); plainPath.MatchString(dir) && s.dir(dir) {
					r.dir = dir
				}
			}
		}
		return r
	}
	for _, d := range phpRoots {
		if s.has(d + "/index.php") {
			return documentRoot{dir: d, why: d + "/index.php"}
		}
	}
	return documentRoot{dir: ".", why: "index.php"}
}

// phpCommand is the program that starts Apache. Heroku's names lead to it as well: the
// Procfile is run as it is.
const phpCommand = "serve-php"

// phpServe chooses the image and what it starts.
func phpServe(s *source, p *plan, version string, root documentRoot) error {
	command := s.set.StartCommand
	if command == "" {
		command = s.process("web")
	}
	index := s.has(path.Join(root.dir, "index.php"))
	switch {
	case command != "" && !root.given, command == "" && !index, s.set.BaseImage != "" && !strings.Contains(s.set.BaseImage, "apache"):
		// Another server, such as Octane's, or none at all.
		p.image = "php:" + version + "-cli-" + p.release
		found := ""
		if index {
			p.env = append(p.env, "PHP_CLI_SERVER_WORKERS=4")
			found = "php -S 0.0.0.0:$PORT -t " + root.dir
		}
		return s.start(p, found, root.why, "public/index.php or index.php")
	}
	p.image = "php:" + version + "-apache-" + p.release
	p.env = append(p.env, "WEB_CONCURRENCY=20") // Heroku's and Render's name for it
	p.final = append(phpSettings(s, root), p.final...)
	what := root.dir + "/"
	if root.dir == "." {
		what = "the whole repository"
	}
	p.found("serves "+what+" with Apache", root.why)
	if root.unused != "" {
		p.found("ignores "+root.unused, "it is for nginx; a path without a file goes to index.php anyway")
	}
	if !root.given {
		p.cmd = phpCommand
		return nil
	}
	if f := strings.Fields(command)[0]; strings.Contains(f, "/") {
		p.final = append(p.final, "RUN mkdir -p "+path.Dir(path.Clean(f))+" && ln -sf /usr/local/bin/"+phpCommand+" "+path.Clean(f))
	}
	return s.start(p, command, root.why, "index.php")
}

// apacheConf is Apache's configuration for the site, beside that of the image, which
// gives files ending in .php to PHP.
//
// KeepAlive is off because an idle connection would hold a process with PHP in it, and
// mesh's router, the only client, is next to it. A path without a file gets index.php, if
// there is one: FallbackResource looks at files only, so a dot in a path means nothing.
// What .htaccess says comes first. A folder without its slash is redirected to https, where
// the client came from: Apache itself would name http. Files and folders with a leading dot do not exist for
// clients, except .well-known (RFC 8615).
//
// File names with a hash of the content, as Vite, Mix, Encore and Symfony's AssetMapper
// write them, never change; everything else is asked for again, as with static sites.
const apacheConf = `ServerName localhost
ServerTokens Prod
ServerSignature Off
TraceEnable Off
KeepAlive Off
ErrorLog /proc/self/fd/2
StartServers 2
MinSpareServers 2
MaxSpareServers 5
ServerLimit ${WEB_CONCURRENCY}
MaxRequestWorkers ${WEB_CONCURRENCY}
GracefulShutdownTimeout 50
DocumentRoot /app/%ROOT
RemoteIPHeader X-Forwarded-For
RemoteIPInternalProxy 127.0.0.0/8 10.0.0.0/8 172.16.0.0/12 192.168.0.0/16 ::1/128 fc00::/7
SetEnvIf X-Forwarded-Proto ^https$ HTTPS=on
IncludeOptional /tmp/passenv.conf
RewriteEngine On
RewriteCond %{HTTP:X-Forwarded-Proto} =https
RewriteCond /app/%ROOT%{REQUEST_URI} -d
RewriteRule ^(.*[^/])$ https://%{HTTP_HOST}$1/ [R=301,L]
<Directory /app/%ROOT>
  Options FollowSymLinks
  AllowOverride All
  Require all granted
  %FALLBACK
</Directory>
RedirectMatch 404 "/\.(?!well-known(?:/|$))"
%HIDDEN
<FilesMatch "\.(?i:%TYPES|txt|xml|pdf|html?|map|webmanifest)$">
  Header setifempty Cache-Control no-cache
</FilesMatch>
<LocationMatch "^/build/assets/|[-.](?=[a-f]*[0-9])(?=[0-9]*[a-f])[0-9a-f]{7,64}\.(?:%TYPES)$">
  Header set Cache-Control "public, max-age=31536000, immutable" "expr=%{REQUEST_STATUS} in {'200', '206', '304'} && %{REQUEST_FILENAME} !~ /\.php$/"
</LocationMatch>
%CONFIG`

// apacheHidden are files of a repository that is served as a whole.
const apacheHidden = `RedirectMatch 404 "^/(?:composer\.(?:json|lock)|auth\.json|package(?:-lock)?\.json|Procfile|app\.json|mesh\.toml|php\.ini|vendor/(?:bin/|.*\.php$))"`

// phpServer starts Apache. What is in the environment belongs into $_SERVER too, as with
// PHP's other servers; names like a header's would be taken for one. Apache answers the
// requests that it has if it gets SIGWINCH, and drops them at SIGTERM
// (https://httpd.apache.org/docs/2.4/stopping.html).
var phpServer = []string{
	"#!/bin/sh",
	"set -e",
	`awk 'BEGIN { for (n in ENVIRON) if (n ~ /^[A-Za-z_][A-Za-z0-9_]*$/ && n !~ /^HTTP/) print "PassEnv " n }' >/tmp/passenv.conf`,
	"apache2-foreground &",
	"server=$!",
	`trap 'kill -WINCH $server' TERM INT QUIT WINCH`,
	`while :; do wait $server && status=0 || status=$?; kill -0 $server 2>/dev/null || exit $status; done`,
}

// phpINI are PHP's settings: those of php.ini-production that matter to a server, and
// uploads of 100 MB. PHP itself allows 2.
const phpINI = `display_errors = Off
log_errors = On
error_reporting = E_ALL & ~E_DEPRECATED
expose_php = Off
upload_max_filesize = 100M
post_max_size = 110M
session.use_strict_mode = On
opcache.memory_consumption = 192
opcache.max_accelerated_files = 20000`

// phpSettings are the instructions that configure Apache and PHP.
func phpSettings(s *source, root documentRoot) []string {
	fallback, hidden, config := "", "", ""
	if s.has(path.Join(root.dir, "index.php")) {
		fallback = "FallbackResource /index.php"
	}
	if root.dir == "." {
		hidden = apacheHidden
	}
	if root.config != "" {
		config = "Include /app/" + root.config
	}
	conf := strings.NewReplacer("/app/%ROOT", path.Join("/app", root.dir), "  %FALLBACK\n", indented(fallback), "%HIDDEN\n", lineOf(hidden), "%TYPES", hashable, "\n%CONFIG", "\n"+config).Replace(apacheConf)
	const confd = "/usr/local/etc/php/conf.d/"
	list := []string{"RUN { php -m | grep -q OPcache || docker-php-ext-enable opcache; } && a2enmod -q headers remoteip rewrite setenvif && a2dismod -q -f status && rm -f /etc/apache2/conf-enabled/other-vhosts-access-log.conf \\\n" +
		" && printf '%s\\n' 'Listen ${PORT}' >/etc/apache2/ports.conf \\\n" +
		" && " + printed(strings.Split(strings.TrimRight(conf, "\n"), "\n")) + " >/etc/apache2/sites-enabled/000-default.conf \\\n" +
		" && " + printed(strings.Split(phpINI, "\n")) + " >" + confd + "app.ini \\\n" +
		" && " + printed(phpServer) + " >/usr/local/bin/" + phpCommand + " && chmod 755 /usr/local/bin/" + phpCommand + " \\\n" +
		" && ln -s " + phpCommand + " /usr/local/bin/heroku-php-apache2 && ln -s " + phpCommand + " /usr/local/bin/heroku-php-nginx"}
	// The later a name, the later PHP reads it. Apache's PHP does not read .user.ini.
	for _, f := range s.phpINIs(root) {
		list = append(list, "COPY "+f+" "+confd+"z-"+strings.TrimLeft(strings.ReplaceAll(f, "/", "-"), ".-"))
	}
	if len(s.phpINIExtensions(root)) > 0 { // they are loaded already, by names of their own
		list = append(list, `RUN sed -i '/^[[:space:]]*\(zend_\)\?extension[[:space:]]*=/d' `+confd+"z-*")
	}
	return list
}

var iniExtension = regexp.MustCompile(`(?m)^\s*(?:zend_)?extension\s*=\s*["']?([A-Za-z0-9_]+)(?:\.so)?["']?\s*$`)

// phpINIExtensions are the extensions that the tree's own settings load.
func (s *source) phpINIExtensions(root documentRoot) (names []string) {
	for _, f := range s.phpINIs(root) {
		for _, m := range iniExtension.FindAllStringSubmatch(s.read(f), -1) {
			names = append(names, strings.ToLower(m[1]))
		}
	}
	return names
}

// phpINIs are the tree's own settings for PHP: php.ini and .php.ini.d as with other
// platforms' builders, and .user.ini of the document root.
func (s *source) phpINIs(root documentRoot) (files []string) {
	files = s.presentFiles("php.ini")
	for _, dir := range []string{"php.ini.d", ".php.ini.d"} {
		files = append(files, s.files(dir, "*.ini")...)
	}
	if root.ini != "" && !slices.Contains(files, root.ini) {
		files = append(files, root.ini)
	}
	for _, f := range []string{path.Join(root.dir, ".user.ini")} {
		if s.has(f) {
			files = append(files, f)
		}
	}
	return files
}

// printed is a command that prints lines.
func printed(list []string) string {
	quoted := make([]string, len(list))
	for i, l := range list {
		quoted[i] = "'" + strings.ReplaceAll(l, "'", `'\''`) + "'"
	}
	return "printf '%s\\n' \\\n    " + strings.Join(quoted, " \\\n    ")
}

func indented(l string) string { return lineOf(strings.TrimRight("  "+l, " ")) }

func lineOf(l string) string {
	if l == "" {
		return ""
	}
	return l + "\n"
}
