package nodes

import (
	"context"
	"slices"
	"strings"
	"time"

	"github.com/docker/docker/api/types/filters"
	"github.com/docker/docker/api/types/mount"
	"github.com/docker/docker/api/types/swarm"

	"mesh"
	"mesh/engine"
)

// AgentSpec is what the agents are started with.
type AgentSpec struct {
	Image   string      // exists on each node: its name contains the version
	Servers []string    // addresses at which agents find mesh
	Pass    mesh.Secret // what they sign in with
}

// What an agent finds: its pass, in a file; its node, and where mesh is, in variables.
const (
	SecretFile = "/run/secrets/mesh-agent"
	EnvNode    = "MESH_AGENT_NODE"
	EnvServers = "MESH_AGENT_SERVERS"
)

// agentMemory is the memory limit of an agent, in bytes.
const agentMemory = 96 << 20

func (s *Swarm) serviceName() string { return engine.Prefix(s.Server) + "agent" }

// Deploy makes an agent run on each node but this one, now and whenever one joins. If they run
// already with the same image at the same servers, nothing changes.
func (s *Swarm) Deploy(ctx context.Context, a AgentSpec) error {
	is, err := s.Look(ctx)
	if err != nil {
		return err
	}
	old, found, err := s.service(ctx)
	if err != nil {
		return s.fault(ctx, "find the agents", err)
	}
	if found {
		c := old.Spec.TaskTemplate.ContainerSpec
		if c != nil && c.Image == a.Image && slices.Contains(c.Env, EnvServers+"="+strings.Join(a.Servers, ",")) {
			return nil
		}
	}
	secret, err := s.secret(ctx, old, a.Pass)
	if err != nil {
		return s.fault(ctx, "hand out the pass of the agents", err)
	}
	spec := s.agents(a, is.Node, secret)
	if !found {
		_, err = s.cli.API(ctx).ServiceCreate(ctx, spec, swarm.ServiceCreateOptions{})
	} else {
		_, err = s.cli.API(ctx).ServiceUpdate(ctx, old.ID, old.Version, spec, swarm.ServiceUpdateOptions{})
	}
	return s.fault(ctx, "start the agents", err)
}

// agents is the service of the agents. They are in the network of their node, where they accept
// connections of its engine and its containers, and have no rights besides the engine's socket.
func (s *Swarm) agents(a AgentSpec, self string, secret *swarm.SecretReference) swarm.ServiceSpec {
	yes, half, attempts := true, 500*time.Millisecond, uint64(0)
	return swarm.ServiceSpec{
		Annotations: swarm.Annotations{Name: s.serviceName(), Labels: map[string]string{engine.LabelServer: s.Server, engine.LabelKind: "agent"}},
		TaskTemplate: swarm.TaskSpec{
			ContainerSpec: &swarm.ContainerSpec{
				Image: a.Image, Command: []string{"/mesh", "agent"}, Labels: map[string]string{engine.LabelKind: "agent"},
				Env:      []string{EnvNode + "={{.Node.ID}}", EnvServers + "=" + strings.Join(a.Servers, ",")},
				Init:     &yes,
				ReadOnly: true, CapabilityDrop: []string{"ALL"}, CapabilityAdd: []string{"CAP_NET_BIND_SERVICE"},
				Mounts:  []mount.Mount{{Type: mount.TypeBind, Source: "/var/run/docker.sock", Target: "/var/run/docker.sock"}},
				Secrets: []*swarm.SecretReference{secret},
			},
			Resources:     &swarm.ResourceRequirements{Limits: &swarm.Limit{MemoryBytes: agentMemory}},
			RestartPolicy: &swarm.RestartPolicy{Condition: swarm.RestartPolicyConditionAny, Delay: &half, MaxAttempts: &attempts},
			Placement:     &swarm.Placement{Constraints: []string{"node.id!=" + self}},
			Networks:      []swarm.NetworkAttachmentConfig{{Target: "host"}},
		},
		Mode: swarm.ServiceMode{Global: &swarm.GlobalService{}},
		// The new agent is connected before the old one goes.
		UpdateConfig: &swarm.UpdateConfig{Order: swarm.UpdateOrderStartFirst, FailureAction: swarm.UpdateFailureActionContinue},
	}
}

// service finds the service of the agents.
func (s *Swarm) service(ctx context.Context) (swarm.Service, bool, error) {
	all, err := s.cli.API(ctx).ServiceList(ctx, swarm.ServiceListOptions{Filters: filters.NewArgs(filters.Arg("name", s.serviceName()))})
	if err != nil {
		return swarm.Service{}, false, err
	}
	i := slices.IndexFunc(all, func(x swarm.Service) bool { return x.Spec.Name == s.serviceName() })
	if i < 0 {
		return swarm.Service{}, false, nil
	}
	return all[i], true, nil
}

// secret returns the one that the agents have, or makes one. It cannot be changed, only replaced.
func (s *Swarm) secret(ctx context.Context, of swarm.Service, pass mesh.Secret) (*swarm.SecretReference, error) {
	ref := &swarm.SecretReference{
		SecretName: s.serviceName(),
		File:       &swarm.SecretReferenceFileTarget{Name: SecretFile[strings.LastIndexByte(SecretFile, '/')+1:], UID: "0", GID: "0", Mode: 0o400},
	}
	all, err := s.cli.API(ctx).SecretList(ctx, swarm.SecretListOptions{Filters: filters.NewArgs(filters.Arg("name", ref.SecretName))})
	if err != nil {
		return nil, err
	}
	for _, x := range all {
		if x.Spec.Name != ref.SecretName {
			continue
		}
		if c := of.Spec.TaskTemplate.ContainerSpec; c != nil && len(c.Secrets) > 0 && c.Secrets[0].SecretID == x.ID {
			ref.SecretID = x.ID
			return ref, nil
		}
		if err := s.cli.API(ctx).SecretRemove(ctx, x.ID); err != nil { // of an authority that is gone
			return nil, err
		}
	}
	made, err := s.cli.API(ctx).SecretCreate(ctx, swarm.SecretSpec{
		Annotations: swarm.Annotations{Name: ref.SecretName, Labels: map[string]string{engine.LabelServer: s.Server}}, Data: []byte(pass.Reveal()),
	})
	ref.SecretID = made.ID
	return ref, err
}

// Withdraw ends the agents on all nodes.
func (s *Swarm) Withdraw(ctx context.Context) error {
	if is, err := s.Look(ctx); err != nil {
		return err
	} else if !is.Manager {
		return nil // its managers end them, if there are any
	}
	old, found, err := s.service(ctx)
	if err != nil {
		return s.fault(ctx, "find the agents", err)
	}
	if found {
		if err := s.cli.API(ctx).ServiceRemove(ctx, old.ID); err != nil {
			return s.fault(ctx, "end the agents", err)
		}
	}
	all, err := s.cli.API(ctx).SecretList(ctx, swarm.SecretListOptions{Filters: filters.NewArgs(filters.Arg("name", s.serviceName()))})
	for _, x := range all {
		if x.Spec.Name == s.serviceName() && err == nil {
			err = s.cli.API(ctx).SecretRemove(ctx, x.ID)
		}
	}
	return s.fault(ctx, "take back the pass of the agents", err)
}
