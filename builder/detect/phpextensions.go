package detect

import (
	"maps"
	"regexp"
	"slices"
	"strings"
)

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

// peclOptions answer the questions of an extension's installer.
func peclOptions(extensions []string) string {
	if slices.Contains(extensions, "imap") {
		return `--configureoptions 'with-kerberos="yes" with-imap-ssl="yes"' `
	}
	return ""
}

// phpExtensions compiles the extensions that are required and that the image lacks. why
// says what requires those that composer.json does not name.
func phpExtensions(p *plan, c composerJSON, version string, why map[string]string) {
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
		from := n + " in composer.json"
		if why[ext] != "" {
			from = why[ext]
		}
		p.found("extension "+ext, from)
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
