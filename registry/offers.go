package registry

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"log/slog"
	"strings"
	"sync"
	"time"

	"github.com/docker/docker/api/types/image"

	"mesh/engine"
)

// offers are the images that a registry has been given since the start of mesh. The zero value is
// ready.
type offers struct {
	guard   sync.Mutex
	offered map[string]string        // digests, by the IDs of images
	pushing map[string]chan struct{} // by the IDs of images; closed at the end
}

// once returns the digest of an image that was offered before, or has push offer it, alone.
func (o *offers) once(ctx context.Context, imageID string, push func() (string, error)) (digest string, err error) {
	for {
		o.guard.Lock()
		digest, known := o.offered[imageID]
		other := o.pushing[imageID]
		if !known && other == nil {
			if o.pushing == nil {
				o.offered, o.pushing = map[string]string{}, map[string]chan struct{}{}
			}
			o.pushing[imageID] = make(chan struct{})
		}
		o.guard.Unlock()
		switch {
		case known:
			return digest, nil
		case other == nil:
			return o.alone(imageID, push)
		}
		select {
		case <-other:
		case <-ctx.Done():
			return "", context.Cause(ctx)
		}
	}
}

func (o *offers) alone(imageID string, push func() (string, error)) (string, error) {
	digest, err := push()
	o.guard.Lock()
	defer o.guard.Unlock()
	close(o.pushing[imageID])
	delete(o.pushing, imageID)
	if err == nil {
		o.offered[imageID] = digest
	}
	return digest, err
}

// Source returns the ID of the image that was offered by a name which ends with a digest; "": none
// was since the start of mesh.
func (o *offers) Source(name string) string {
	_, digest, _ := strings.Cut(name, "@")
	o.guard.Lock()
	defer o.guard.Unlock()
	for id, d := range o.offered {
		if d == digest {
			return id
		}
	}
	return ""
}

// Forget has the next offer of an image push it again, because somebody did not get it.
func (o *offers) Forget(imageID string) {
	o.guard.Lock()
	defer o.guard.Unlock()
	delete(o.offered, imageID)
}

// hold keeps images from being offered until again is called. idle says that none is just now.
func (o *offers) hold() (again func(), idle bool) {
	o.guard.Lock()
	return o.guard.Unlock, len(o.pushing) == 0
}

// forgetAllLocked is Forget for all, during hold.
func (o *offers) forgetAllLocked() { clear(o.offered) }

// push has an engine push an image into a repository, of which it sends what is missing there, and
// returns its digest.
func push(ctx context.Context, cli *engine.Client, repository, imageID, auth string, log *slog.Logger) (digest string, err error) {
	tag := repository + ":" + strings.TrimPrefix(imageID, "sha256:")[:32]
	if err := cli.API(ctx).ImageTag(ctx, imageID, tag); err != nil {
		return "", err
	}
	defer func() {
		cctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), time.Minute)
		defer cancel()
		if _, rerr := cli.API(cctx).ImageRemove(cctx, tag, image.RemoveOptions{}); rerr != nil {
			log.Warn("a name of an image was not removed", "image", tag, "err", rerr)
		}
	}()
	body, err := cli.API(ctx).ImagePush(ctx, tag, image.PushOptions{RegistryAuth: auth})
	if err != nil {
		return "", err
	}
	defer body.Close()
	for d := json.NewDecoder(body); ; {
		var m struct {
			Error string `json:"error"`
			Aux   struct {
				Digest string `json:"Digest"`
			} `json:"aux"`
		}
		switch err := d.Decode(&m); {
		case errors.Is(err, io.EOF) && digest == "":
			return "", errors.New("the engine did not say what it has pushed")
		case errors.Is(err, io.EOF):
			return digest, nil
		case err != nil:
			return "", err
		case m.Error != "":
			return "", errors.New(m.Error)
		case m.Aux.Digest != "":
			digest = m.Aux.Digest
		}
	}
}
