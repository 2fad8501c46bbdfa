package detect

import (
	"maps"
	"regexp"
	"slices"
	"strings"
)

// phpCompiled are the extensions of PHP's own source that the image lacks, and that can be
// compiled into it.
var phpCompiled = words(`bcmath bz2 calendar dba enchant exif ffi gd gettext gmp imap intl ldap mysqli opcache pcntl pdo_mysql pdo_pgsql
pgsql shmop snmp soap sockets sysvmsg sysvsem sysvshm tidy xsl zip`)

// phpUsed are the extensions that the tree uses without naming them in composer.json, and
// what says so. Other platforms' images have most of them.
func phpUsed(s *source, c composerJSON, root documentRoot) map[string]string {
	used := map[string]string{}
	add := func(ext, why string) {
		if c.Require["ext-"+ext] == "" && used[ext] == "" {
			used[ext] = why
		}
	}
	var lock struct {
		Packages []struct {
			Name    string
			Require map[string]any
		}
	}
	_ = s.json("composer.lock", &lock) // Composer reports what is wrong with it
	predis := false
	for _, l := range lock.Packages {
		predis = predis || l.Name == "predis/predis"
		for _, n := range slices.Sorted(maps.Keys(l.Require)) {
			if ext, ok := strings.CutPrefix(strings.ToLower(n), "ext-"); ok && (slices.Contains(phpCompiled, ext) || slices.Contains(phpPECL, ext)) {
				add(ext, l.Name+" in composer.lock")
			}
		}
	}
	for _, f := range s.presentFiles(".env", ".env.example", ".env.dist") {
		text := s.read(f)
		if m := phpDatabase.FindStringSubmatch(text); m != nil {
			add(phpDriver[m[1]+m[2]], "the database in "+f)
		}
		if phpRedis.MatchString(text) && !predis && c.Require["predis/predis"] == "" && c.Require["laravel/framework"] != "" {
			add("redis", "Redis in "+f)
		}
	}
	delete(used, "")
	for _, dir := range slices.Compact([]string{".", root.dir}) {
		for _, f := range s.in(dir) {
			if !strings.HasSuffix(f, ".php") {
				continue
			}
			text := s.read(f)
			for _, d := range phpCalls {
				if d.calls.MatchString(text) {
					add(d.extension, f)
				}
			}
		}
	}
	if s.has(root.dir+"/wp-load.php") || s.has("wp-load.php") { // https://make.wordpress.org/hosting/handbook/server-environment/
		for _, ext := range words("mysqli exif gd intl zip") {
			add(ext, "WordPress")
		}
	}
	return used
}

var (
	phpDatabase = regexp.MustCompile(`(?m)^\s*(?:DB_CONNECTION\s*=\s*["']?(\w+)|DATABASE_URL\s*=\s*["']?(\w+)://)`)
	phpRedis    = regexp.MustCompile(`(?m)^\s*(?:CACHE_STORE|CACHE_DRIVER|SESSION_DRIVER|QUEUE_CONNECTION)\s*=\s*["']?redis`)
)

// phpDriver is the extension for a kind of database, as Laravel and Doctrine name them.
var phpDriver = map[string]string{
	"mysql": "pdo_mysql", "mysql2": "pdo_mysql", "mariadb": "pdo_mysql", "pgsql": "pdo_pgsql", "postgres": "pdo_pgsql", "postgresql": "pdo_pgsql",
}

// phpCalls are calls that only an extension answers.
var phpCalls = []struct {
	calls     *regexp.Regexp
	extension string
}{
	{regexp.MustCompile(`\bmysqli_\w+\(|\bnew \\?mysqli\(`), "mysqli"},
	{regexp.MustCompile(`['"]mysql:(?:host|dbname|unix_socket)`), "pdo_mysql"},
	{regexp.MustCompile(`['"]pgsql:(?:host|dbname)`), "pdo_pgsql"},
	{regexp.MustCompile(`\bpg_connect\(`), "pgsql"},
	{regexp.MustCompile(`\bimagecreate\w*\(`), "gd"},
	{regexp.MustCompile(`\bnew \\?Redis\(`), "redis"},
	{regexp.MustCompile(`\bnew \\?Memcached\(`), "memcached"},
	{regexp.MustCompile(`\bbc(?:add|sub|mul|div|mod|pow|comp)\(`), "bcmath"},
	{regexp.MustCompile(`\bnew \\?ZipArchive\b`), "zip"},
	{regexp.MustCompile(`\bnew \\?SoapClient\(`), "soap"},
}
