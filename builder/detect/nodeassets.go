package detect

import "strings"

// nodeCopied is the instruction that adds Node to a stage of another language with
// glibc. what names it in the facts.
func nodeCopied(s *source, p *plan, j packageJSON, what string) (image, version string, err error) {
	v, err := nodeSaid(s, j)
	if err != nil {
		return "", "", err
	}
	version, release, err := nodeVersion(s, p, what, v)
	return "COPY --from=" + nodeImage(version, release) + " /usr/local /usr/local", version, err
}

// nodeTools are the instructions that add Node and the package manager of a package.json.
func nodeTools(s *source, p *plan, j packageJSON, what string) (list []string, m manager, err error) {
	image, version, err := nodeCopied(s, p, j, what)
	if err != nil {
		return nil, m, err
	}
	m = packageManager(s, p, j, version)
	list = []string{image}
	if m.setup != "" {
		list = append(list, "RUN "+m.setup)
	}
	if len(m.env) > 0 {
		list = append(list, "ENV "+strings.Join(m.env, " "))
	}
	return list, m, nil
}

// nodeAssets adds Node to a stage of another language and installs the packages of its
// package.json there: the instructions, and the option of a RUN that installs again.
func nodeAssets(s *source, p *plan, j packageJSON) (list []string, cache string, err error) {
	list, m, err := nodeTools(s, p, j, "for the assets, Node")
	if err != nil {
		return nil, "", err
	}
	var mounts, exports string
	cache, mounts, exports = nodeMounts(s, m)
	p.found(m.install, m.why)
	if why := nodeWhole(j); why != "" {
		p.found("copies everything before installing packages", why)
		list = append(list, "COPY . .")
	} else {
		list = append(list, copies(s.present(append([]string{"package.json", ".npmrc", "patches"}, m.files...)...))...)
	}
	return append(list, "RUN "+cache+mounts+exports+m.install), cache, nil
}
