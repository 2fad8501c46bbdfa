package detect

import "strings"

// nodeAssets adds Node to a stage of another language and installs the packages of its
// package.json there: the instructions, and the option of a RUN that installs again.
func nodeAssets(s *source, p *plan, j packageJSON) (list []string, cache string, err error) {
	v, err := nodeSaid(s, j)
	if err != nil {
		return nil, "", err
	}
	version, release, err := nodeVersion(s, p, "for the assets, Node", v)
	if err != nil {
		return nil, "", err
	}
	m := packageManager(s, p, j, version)
	list = append(list, "COPY --from="+nodeImage(version, release)+" /usr/local /usr/local")
	if m.setup != "" {
		list = append(list, "RUN "+m.setup)
	}
	if len(m.env) > 0 {
		list = append(list, "ENV "+strings.Join(m.env, " "))
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
