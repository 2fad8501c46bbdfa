package addons

import (
	"context"

	"mesh"
)

// Rotated returns the add-on with another password and, if its kind has users, another user.
// It is an error if the kind cannot have two at the same time.
func (s *Server) Rotated(a mesh.Addon) (mesh.Addon, error) {
	k, err := s.of(a)
	if err != nil {
		return a, err
	}
	if k.Add == nil || k.Drop == nil {
		return a, mesh.Errorf(mesh.Conflict, "the password of %s cannot be changed while it is used: %s has no way to accept two", a.Name, k.name)
	}
	a.Password = newPassword()
	if k.Users {
		a.User = newUser()
	}
	return a, nil
}

func (k *kind) next(next mesh.Addon) map[string]string {
	return map[string]string{"NEW_USER": next.User, "NEW_PASSWORD": next.Password.Reveal()}
}

// Admit lets stacks sign in as next says, besides as a says. It may be called again.
func (s *Server) Admit(ctx context.Context, a, next mesh.Addon) error {
	return s.change(ctx, a, next, func(k *kind) *program { return k.Add })
}

// Dismiss lets nobody sign in as a says, and cuts who has: next is in use. It may be called
// again.
func (s *Server) Dismiss(ctx context.Context, a, next mesh.Addon) error {
	return s.change(ctx, a, next, func(k *kind) *program { return k.Drop })
}

func (s *Server) change(ctx context.Context, a, next mesh.Addon, which func(*kind) *program) error {
	k, err := s.of(a)
	if err != nil {
		return err
	}
	c, there, err := s.find(ctx, a)
	if err == nil && !there {
		return mesh.Errorf(mesh.Conflict, "%s does not run", a.Name).WithHint("start it: ssh mesh addons:start %s", a.Name)
	}
	if err != nil {
		return s.fault(ctx, "find add-on "+string(a.Name), err)
	}
	if err := s.program(ctx, k, a, c.ID, which(k), k.next(next), nil, nil); err != nil {
		return err
	}
	// The engine may start the container again by itself.
	return s.fault(ctx, "change the files of "+string(a.Name), s.writeFiles(ctx, c.ID, fillMap(k.Files, k.values(next))))
}

// Shell returns what a person types into, connected to nothing yet.
func (s *Server) Shell(ctx context.Context, a mesh.Addon, words []string) (mesh.Exec, error) {
	k, err := s.of(a)
	if err != nil {
		return mesh.Exec{}, err
	}
	if k.Shell == nil {
		return mesh.Exec{}, mesh.Errorf(mesh.Conflict, "%s has no shell: %s is used by other programs", a.Name, k.name).WithHint("connect your own: mesh addons:proxy %s", a.Name)
	}
	c, there, err := s.find(ctx, a)
	if err != nil {
		return mesh.Exec{}, s.fault(ctx, "find add-on "+string(a.Name), err)
	}
	if !there {
		return mesh.Exec{}, mesh.Errorf(mesh.Conflict, "%s does not run", a.Name).WithHint("start it: ssh mesh addons:start %s", a.Name)
	}
	values := k.values(a)
	e := mesh.Exec{ID: c.ID, Name: string(a.Name), Words: append(fillAll(k.Shell.Run, values), words...), Env: map[string]mesh.Secret{}}
	for name, v := range fillMap(k.Shell.Env, values) {
		e.Env[name] = mesh.NewSecret(v)
	}
	return e, nil
}
