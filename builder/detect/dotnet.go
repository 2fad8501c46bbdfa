package detect

import (
	"cmp"
	"encoding/xml"
	"path"
	"regexp"
	"slices"
	"strings"

	"mesh"
)

// dotnetProject is what counts in a project file of MSBuild.
type dotnetProject struct {
	file string // in the tree, such as src/Web/Web.csproj

	Sdk            string `xml:"Sdk,attr"`
	PropertyGroups []struct {
		TargetFramework, TargetFrameworks, OutputType, AssemblyName, IsTestProject, UseAppHost string
		PublishAot, PublishSingleFile, SelfContained, RuntimeIdentifier, SpaRoot               string
	} `xml:"PropertyGroup"`
	ItemGroups []struct {
		ProjectReference []struct {
			Include string `xml:",attr"`
		}
		FrameworkReference []struct {
			Include string `xml:",attr"`
		}
		PackageReference []struct {
			Include string `xml:",attr"`
		}
	} `xml:"ItemGroup"`
}

// property is the last value of a property, as MSBuild has it.
func (d dotnetProject) property(get func(int) string) (v string) {
	for i := range d.PropertyGroups {
		v = cmp.Or(strings.TrimSpace(get(i)), v)
	}
	return v
}

func (d dotnetProject) framework() string {
	return d.property(func(i int) string {
		return cmp.Or(d.PropertyGroups[i].TargetFramework, d.PropertyGroups[i].TargetFrameworks)
	})
}

// assembly is the name of the program.
func (d dotnetProject) assembly() string {
	name := d.property(func(i int) string { return d.PropertyGroups[i].AssemblyName })
	if name == "" || !plainPath.MatchString(name) {
		name = strings.TrimSuffix(path.Base(d.file), path.Ext(d.file))
	}
	return name
}

// references are the projects that this one needs, in the tree.
func (d dotnetProject) references() (files []string) {
	for _, g := range d.ItemGroups {
		for _, r := range g.ProjectReference {
			files = append(files, path.Join(path.Dir(d.file), slashes(r.Include)))
		}
	}
	return files
}

func (d dotnetProject) wants(name string) bool {
	for _, g := range d.ItemGroups {
		for _, r := range slices.Concat(g.FrameworkReference, g.PackageReference) {
			if strings.EqualFold(r.Include, name) {
				return true
			}
		}
	}
	return false
}

func (d dotnetProject) blazor() bool {
	return strings.EqualFold(d.Sdk, "Microsoft.NET.Sdk.BlazorWebAssembly")
}

func (d dotnetProject) web() bool {
	return strings.EqualFold(d.Sdk, "Microsoft.NET.Sdk.Web") || d.wants("Microsoft.AspNetCore.App")
}

func (d dotnetProject) test() bool {
	return d.wants("Microsoft.NET.Test.Sdk") || strings.EqualFold(d.property(func(i int) string { return d.PropertyGroups[i].IsTestProject }), "true")
}

// program reports whether the project is one that can be started.
func (d dotnetProject) program() bool {
	out := d.property(func(i int) string { return d.PropertyGroups[i].OutputType })
	runs := d.blazor() || slices.ContainsFunc([]string{"Microsoft.NET.Sdk.Web", "Microsoft.NET.Sdk.Worker"}, func(s string) bool { return strings.EqualFold(d.Sdk, s) })
	return !d.test() && (runs && !strings.EqualFold(out, "Library") || strings.EqualFold(out, "Exe"))
}

// slashes are the paths of Windows, in which project files are written.
func slashes(p string) string { return strings.ReplaceAll(p, `\`, "/") }

var (
	dotnetKinds = []string{"*.csproj", "*.fsproj", "*.vbproj"}
	slnProject  = regexp.MustCompile(`(?m)^Project\("[^"]*"\)\s*=\s*"[^"]*",\s*"([^"]+\.(?:cs|fs|vb)proj)"`)
	slnxProject = regexp.MustCompile(`<Project\s[^>]*Path="([^"]+\.(?:cs|fs|vb)proj)"`)
)

// dotnetSign is a project or a solution in the root. The projects of a game or an old
// .NET Framework are left to others, and so is a solution without a project in the tree.
func dotnetSign(s *source) string {
	for _, pattern := range dotnetKinds {
		for _, f := range s.files(".", pattern) {
			switch d, err := s.dotnetProject(f); {
			case err == nil && !d.program() && s.has("package.json"): // a front end with a project for an IDE
			case err != nil || d.Sdk != "" || s.dotnetSDK(f):
				return f
			}
		}
	}
	for _, f := range append(s.files(".", "*.slnx"), s.files(".", "*.sln")...) {
		for _, project := range s.solution(f) {
			if d, err := s.dotnetProject(project); err != nil || d.program() || !s.has("package.json") {
				return f
			}
		}
	}
	return ""
}

// dotnetSDK reports whether a project without an Sdk attribute imports one in another way.
func (s *source) dotnetSDK(file string) bool {
	text := s.read(file)
	return strings.Contains(text, "<Sdk ") || strings.Contains(text, `Sdk="Microsoft.NET.Sdk`)
}

// dotnetBelow is a project in a folder of a tree that nothing else explains.
func dotnetBelow(s *source) string {
	for _, f := range s.dotnetWalk() {
		if d, err := s.dotnetProject(f); err == nil && d.program() {
			return f
		}
	}
	return ""
}

// dotnetWalk are the project files in the tree, to the depth of src/Web/Web.csproj.
func (s *source) dotnetWalk() (files []string) {
	var look func(dir string, depth int)
	look = func(dir string, depth int) {
		for _, pattern := range dotnetKinds {
			files = append(files, s.files(dir, pattern)...)
		}
		if depth == 0 {
			return
		}
		for _, d := range s.foldersOf(dir) {
			if d != "bin" && d != "obj" {
				look(path.Join(dir, d), depth-1)
			}
		}
	}
	look(".", 2)
	return files
}

// solution are the projects of a solution that are in the tree.
func (s *source) solution(file string) (files []string) {
	text := s.read(file)
	for _, f := range append(all(slnProject, text), all(slnxProject, text)...) {
		if f = path.Clean(slashes(f)); plainPath.MatchString(f) && s.has(f) {
			files = append(files, f)
		}
	}
	return files
}

func (s *source) dotnetProject(file string) (d dotnetProject, err error) {
	text := s.read(file)
	if err := xml.Unmarshal([]byte(text), &d); err != nil {
		return d, mesh.Errorf(mesh.Invalid, "%s: %w", file, err)
	}
	if d.Sdk == "" {
		d.Sdk = group(regexp.MustCompile(`(?:<Sdk Name="|<Import [^>]*Sdk=")([^"/]+)`), text)
	}
	d.Sdk, _, _ = strings.Cut(d.Sdk, "/") // with a version: Microsoft.NET.Sdk.Web/8.0.0
	d.Sdk, _, _ = strings.Cut(d.Sdk, ";")
	d.file = file
	return d, nil
}

// dotnet publishes one project of a tree and the projects that it needs.
func dotnet(s *source, p *plan) error {
	app, err := s.dotnetApp()
	if err != nil {
		return err
	}
	where := s.dotnetClimb(p, &app)
	needed := where.dotnetClosure(app)
	if err := dotnetVersion(where, p, app, needed); err != nil {
		return err
	}
	relax := where.dotnetRelax(p)
	const cache = "/root/.nuget/packages"
	if where.has("paket.dependencies") || where.first("packages.lock.json") == "" && where.dotnetWhole(needed) {
		p.found("copies everything before installing", "the projects import other files")
		p.build = append(p.build, "COPY . .")
	} else {
		p.build = append(p.build, copies(where.dotnetRoot())...)
		for _, d := range needed {
			files := append([]string{d.file}, where.files(path.Dir(d.file), "packages.lock.json")...)
			to := "./"
			if dir := path.Dir(d.file); dir != "." {
				to = dir + "/"
			}
			p.build = append(p.build, "COPY "+strings.Join(files, " ")+" "+to)
		}
	}
	if where.has(".config/dotnet-tools.json") {
		p.build = append(p.build, copies([]string{".config/"})...)
		relax += "dotnet tool restore && "
	}
	p.found("dotnet restore", app.file)
	p.build = append(p.build, "RUN "+cacheMounts(cache)+relax+"dotnet restore "+app.file)
	front, err := where.dotnetNode(p, app, needed)
	if err != nil {
		return err
	}
	p.copyAll()
	publish := "dotnet publish " + app.file + " --configuration Release --output /out"
	if f := strings.Split(app.framework(), ";"); len(f) > 1 {
		publish += " --framework " + newestNet(f)
	}
	command := s.buildCommand(p, publish, app.file)
	if front || app.blazor() || s.set.BuildCommand != "" {
		p.build = append(p.build, "RUN "+cacheMounts(cache)+withConfig+readConfig+relax+command)
	} else {
		p.build = append(p.build, "RUN "+cacheMounts(cache)+relax+command)
	}
	if app.blazor() {
		if err := s.site(p); err != nil {
			return err
		}
		p.found("serves wwwroot/, and its index.html for any other path", app.file)
		p.final = serveApp("--from=build /out/wwwroot")
		return s.start(p, staticCommand, staticServer, "a project")
	}
	p.final = []string{"COPY --from=build --chown=%OWNER /out /app"}
	if dir := path.Join(path.Dir(app.file), "bin/publish"); strings.Contains(s.started(), "bin/publish") {
		p.found("copies the program to "+dir, "the start command looks there, as on Heroku")
		p.final = []string{"COPY --from=build --chown=%OWNER /out /app/" + dir}
	}
	return s.start(p, dotnetStart(app), app.file, "a project that can be started")
}

// dotnetApp finds the project to start: the one in the root, or one of those in the
// solution or below.
func (s *source) dotnetApp() (app dotnetProject, err error) {
	files, where := []string{}, "this folder"
	for _, pattern := range dotnetKinds {
		files = append(files, s.files(".", pattern)...)
	}
	if len(files) == 0 {
		for _, f := range append(s.files(".", "*.slnx"), s.files(".", "*.sln")...) {
			files, where = append(files, s.solution(f)...), f
		}
	}
	if len(files) == 0 {
		files, where = s.dotnetWalk(), "the repository"
	}
	var web, others []dotnetProject
	slices.Sort(files)
	for _, f := range slices.Compact(files) { // a project may be in two solutions
		d, err := s.dotnetProject(f)
		switch {
		case err != nil:
			return app, err
		case d.web() && d.program():
			web = append(web, d)
		case d.program():
			others = append(others, d)
		}
	}
	if len(web) == 0 {
		web = others
	}
	var names []string
	for _, d := range web {
		names = append(names, d.assembly())
	}
	if len(names) == 0 {
		return app, mesh.Errorf(mesh.Invalid, "this is .NET, but no project in %s can be started: %s", where, flat(mesh.Clip(strings.Join(files, ", "), 200))).
			WithHint("set Sdk=\"Microsoft.NET.Sdk.Web\" or <OutputType>Exe</OutputType> in the one to start")
	}
	// A Blazor client is published by the server that refers to it.
	if want := program(names, s.dotnetStarted(names)); want != "" {
		return web[slices.Index(names, want)], nil
	}
	var last []string // "Shop.Web" is the web of a shop
	for _, n := range names {
		last = append(last, n[strings.LastIndex(n, ".")+1:])
	}
	if want := program(last, ""); want != "" {
		return web[slices.Index(last, want)], nil
	}
	var dirs []string
	for _, d := range web {
		dirs = append(dirs, path.Dir(d.file))
	}
	return app, mesh.Errorf(mesh.Invalid, "this is .NET, and %s has several projects that can be started: %s", where, flat(mesh.Clip(strings.Join(names, ", "), 200))).
		WithHint("name the folder of the one to start: set root=%s", cmp.Or(strings.TrimPrefix(dirs[0], "."), "DIR"))
}

// dotnetStarted is the project that the start command names.
func (s *source) dotnetStarted(names []string) string {
	for _, n := range names {
		if regexp.MustCompile(`(^|[\s/])` + regexp.QuoteMeta(n) + `(\.dll)?(\s|$)`).MatchString(s.set.StartCommand + "\n" + s.process("web")) {
			return n
		}
	}
	return ""
}

// dotnetClimb looks for what a folder's project belongs to: the solution above it, or
// the tree that has the projects that it refers to.
func (s *source) dotnetClimb(p *plan, app *dotnetProject) *source {
	inside := func(at string) bool {
		return !slices.ContainsFunc(app.references(), func(f string) bool { return strings.HasPrefix(path.Join(at, f), "..") })
	}
	if !s.climb(func(top *source, at string) bool {
		return slices.ContainsFunc(append(top.files(".", "*.slnx"), top.files(".", "*.sln")...), func(f string) bool {
			return slices.Contains(top.solution(f), path.Join(at, app.file))
		})
	}) && (inside("") || !s.climb(func(_ *source, at string) bool { return inside(at) })) {
		return s
	}
	p.found("includes the folders above", cmp.Or(cmp.Or(append(s.top.files(".", "*.slnx"), s.top.files(".", "*.sln")...)...), "ProjectReference in "+app.file))
	if d, err := s.top.dotnetProject(path.Join(s.at, app.file)); err == nil {
		*app = d
	}
	return &source{tree: s.top.tree, set: s.set}
}

// dotnetClosure is a project and all that it needs, in the order of their paths.
func (s *source) dotnetClosure(app dotnetProject) (list []dotnetProject) {
	var visit func(d dotnetProject)
	visit = func(d dotnetProject) {
		if slices.ContainsFunc(list, func(l dotnetProject) bool { return l.file == d.file }) {
			return
		}
		list = append(list, d)
		for _, f := range d.references() {
			if r, err := s.dotnetProject(f); err == nil && plainPath.MatchString(f) && s.has(f) {
				visit(r)
			}
		}
	}
	visit(app)
	slices.SortFunc(list, func(a, b dotnetProject) int { return cmp.Compare(a.file, b.file) })
	return list
}

// dotnetRoot are the files in the root that a restore reads.
func (s *source) dotnetRoot() []string {
	return s.present("global.json", "Directory.Build.props", "Directory.Build.targets", "Directory.Packages.props", "nuget.config", "NuGet.config", "NuGet.Config")
}

// dotnetWhole reports whether the projects import files that are not copied for a restore.
func (s *source) dotnetWhole(list []dotnetProject) bool {
	for _, d := range list {
		if regexp.MustCompile(`<Import\s[^>]*Project=|<ProjectReference [^>]*\$\(|<ProjectReference [^>]*\*`).MatchString(s.read(d.file)) || !s.has(d.file) {
			return true
		}
		for dir := path.Dir(d.file); dir != "."; dir = path.Dir(dir) {
			if s.first(dir+"/Directory.Build.props", dir+"/Directory.Packages.props", dir+"/nuget.config", dir+"/NuGet.config", dir+"/Directory.Build.targets") != "" {
				return true
			}
		}
	}
	return false
}

var netVersion = regexp.MustCompile(`^net(?:coreapp)?(\d+\.\d+)`)

// newestNet is the newest of several target frameworks that runs on Linux.
func newestNet(list []string) (newest string) {
	for _, f := range list {
		f = strings.TrimSpace(f)
		if v := group(netVersion, f); v != "" && !strings.Contains(f, "windows") && (newest == "" || atLeast(v, group(netVersion, newest))) {
			newest = f
		}
	}
	return newest
}

// dotnetVersion chooses the images: the runtime that the project is for, and an SDK that
// is not older than global.json asks for.
func dotnetVersion(s *source, p *plan, app dotnetProject, needed []dotnetProject) error {
	text, from := app.framework(), app.file
	if text == "" || strings.Contains(text, "$(") {
		text = ""
		for _, f := range []string{"Directory.Build.props", "Directory.Packages.props", path.Join(path.Dir(app.file), "Directory.Build.props")} {
			if v := group(regexp.MustCompile(`<TargetFrameworks?>\s*(net[^<]+?)\s*</`), s.read(f)); v != "" {
				text, from = v, f
				break
			}
		}
	}
	net := newestNet(strings.Split(text, ";"))
	if net == "" && text != "" {
		return mesh.Errorf(mesh.Invalid, "%s is for %q, which does not run on Linux", from, flat(mesh.Clip(text, 40))).
			WithHint("set <TargetFramework>net10.0</TargetFramework> in the project")
	}
	// A program runs on the release that it is for, and on no later one: what people set
	// is the SDK.
	runtime, why := group(netVersion, net), from
	if runtime == "" {
		runtime, why = lines(cmp.Or(p.want.text, "10.0"), 2), cmp.Or(p.want.from, "the default")
	}
	p.found(".NET "+runtime, why)
	for _, d := range needed { // the SDK must know the newest of them
		if v := group(netVersion, newestNet(strings.Split(d.framework(), ";"))); v != "" && atLeast(v, runtime) {
			runtime = v
		}
	}
	sdk := runtime
	if v := firstSaid(p.want, said{s.globalSDK().Version, "global.json"}); v.text != "" && !atLeast(runtime, lines(v.text, 2)) {
		sdk = lines(v.text, 2)
		if !strings.Contains(sdk, ".") {
			sdk += ".0"
		}
		p.found(".NET SDK "+sdk, v.from+" says "+flat(mesh.Clip(v.text, 40)))
	}
	p.buildImage, p.image = "mcr.microsoft.com/dotnet/sdk:"+sdk, "mcr.microsoft.com/dotnet/aspnet:"+runtime
	if atLeast(runtime, "8.0") { // older images have no user of their own
		p.user = "app"
	}
	if app.property(func(i int) string { return app.PropertyGroups[i].PublishAot }) == "true" {
		p.debianNeeds("", "clang zlib1g-dev")
		p.found("installs clang zlib1g-dev", "PublishAot in "+app.file)
	}
	return nil
}

type globalSDK struct{ Version, RollForward string }

func (s *source) globalSDK() globalSDK {
	var g struct{ Sdk globalSDK }
	_ = s.jsonc("global.json", &g) // dotnet reports what is wrong with it
	return g.Sdk
}

// dotnetRelax lets the image's SDK stand for the one that global.json pins: without a
// policy it must be of the same hundred of patches, and images exist for the newest alone
// (https://learn.microsoft.com/dotnet/core/tools/global-json).
func (s *source) dotnetRelax(p *plan) string {
	g := s.globalSDK()
	if g.Version == "" || slices.ContainsFunc([]string{"feature", "minor", "major", "latestFeature", "latestMinor", "latestMajor"}, func(r string) bool { return strings.EqualFold(r, g.RollForward) }) {
		return ""
	}
	p.found("any newer SDK of the line", "global.json pins "+g.Version+"; images exist for the newest")
	if g.RollForward != "" {
		return `sed -i -E 's/("rollForward": *)"[A-Za-z]+"/\1"latestFeature"/' global.json && `
	}
	return `sed -i -E 's/("version": *"[^"]+")/\1, "rollForward": "latestFeature"/' global.json && `
}

// dotnetNode adds Node for a front end that the projects build, and reports whether
// there is one. The projects install its packages themselves.
func (s *source) dotnetNode(p *plan, app dotnetProject, needed []dotnetProject) (bool, error) {
	for _, d := range needed {
		spa := slashes(strings.Trim(d.property(func(i int) string { return d.PropertyGroups[i].SpaRoot }), `\/`))
		if spa == "" && !npmCommand.MatchString(s.read(d.file)) {
			continue
		}
		dir := path.Join(path.Dir(d.file), cmp.Or(spa, "."))
		if !s.has(path.Join(dir, "package.json")) {
			dir = path.Dir(app.file)
		}
		image, err := s.nodeBeside(p, dir)
		if err != nil {
			return false, err
		}
		p.build = append(p.build, image)
		return true, nil
	}
	return false, nil
}

// npmCommand is a step of a project that needs Node.
var npmCommand = regexp.MustCompile(`Command="[^"]*\b(npm|yarn|pnpm|npx|node)\b|\.esproj"`)

// dotnetStart starts the program on $PORT. A program that brings its runtime, or is one
// file, is started itself.
func dotnetStart(app dotnetProject) string {
	is := func(get func(int) string) bool { return strings.EqualFold(app.property(get), "true") }
	command := "dotnet " + app.assembly() + ".dll"
	if is(func(i int) string { return app.PropertyGroups[i].PublishAot }) || is(func(i int) string { return app.PropertyGroups[i].PublishSingleFile }) ||
		is(func(i int) string { return app.PropertyGroups[i].SelfContained }) {
		command = "./" + app.assembly()
	}
	if app.web() {
		return "env ASPNETCORE_URLS=http://0.0.0.0:$PORT " + command
	}
	return command
}
