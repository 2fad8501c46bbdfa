package detect

import (
	"path"
	"strings"
)

// prepare adds what a build needs besides the dependencies: Prisma's client, and the
// adapter that SvelteKit's adapter-auto would choose for another platform.
func (job *nodeJob) prepare(s *source, p *plan, j packageJSON) {
	if j.has("@sveltejs/adapter-auto") && !j.has("@sveltejs/adapter-node") && !j.has("@sveltejs/adapter-static") {
		// adapter-auto takes it for Google Cloud Run, whose adapter is adapter-node
		// (sveltejs/kit, packages/adapter-auto/adapters.js).
		job.extra, job.variables = "@sveltejs/adapter-node@5", "GCP_BUILDPACKS=yes"
		if strings.HasPrefix(number.FindString(j.Dependencies["@sveltejs/kit"]+" "+j.DevDependencies["@sveltejs/kit"]), "1.") {
			job.extra = "@sveltejs/adapter-node@1"
		}
		p.found("adds "+job.extra, "@sveltejs/adapter-auto has no other adapter for a server of your own")
	}
	if job.schema = prismaSchema(s, j); job.schema == "" {
		return
	}
	generated := strings.Contains(job.command, "prisma generate")
	for _, script := range []string{"preinstall", "install", "postinstall", "prepare", "prebuild", "build", "heroku-postbuild"} {
		generated = generated || strings.Contains(j.Scripts[script], "prisma generate")
	}
	if !generated && j.has("prisma") {
		job.generate = "prisma generate"
		p.found(job.generate, job.schema)
	}
	if job.name == "bun" {
		job.keep = "bun removes Prisma's client with them"
	}
}

// prismaSchema is the file or folder of Prisma's schema, or empty.
func prismaSchema(s *source, j packageJSON) string {
	if !j.has("prisma") && !j.has("@prisma/client") {
		return ""
	}
	named := path.Clean(j.Prisma.Schema)
	for _, f := range []string{named, "prisma/schema.prisma", "schema.prisma", "prisma/schema", "prisma"} {
		if f != "." && plainPath.MatchString(f) && !strings.HasPrefix(f, "..") && (s.has(f) || s.dir(f)) {
			return f
		}
	}
	return ""
}

// prismaFiles are what has to be there when Prisma's client is installed, which
// generates itself from the schema.
func prismaFiles(s *source, schema string) []string {
	if schema == "" {
		return nil
	}
	top, _, _ := strings.Cut(schema, "/")
	return s.present(top, "prisma.config.ts", "prisma.config.js", "prisma.config.mjs")
}
