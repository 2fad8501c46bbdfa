package backups

import (
	"bytes"
	"cmp"
	"context"
	"crypto/md5" //nolint:gosec // S3's own checksum of a part
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"io"
	"net/http"
	"net/url"
	"path"
	"strings"
	"time"

	"github.com/minio/minio-go/v7"
	"github.com/minio/minio-go/v7/pkg/credentials"

	"mesh"
)

// Limits of requests to an S3 server.
const (
	askTime  = time.Minute      // a short request, with its retries
	partTime = 30 * time.Minute // one attempt at a part, or at the last step
	retries  = 3                // minio's own, within one attempt
)

// bucket is a place in an S3 server.
type bucket struct {
	*Backups
	mesh.S3Place
	core minio.Core
	host string // for errors
}

func (b *Backups) newS3(s mesh.S3Place, at mesh.BackupPlace) (*bucket, error) {
	if at.AccessKey.Reveal() == "" || at.SecretKey.Reveal() == "" {
		return nil, mesh.Errorf(mesh.Invalid, "%s needs an access key and a secret key", at.URL).
			WithHint("--access-key ID --secret-key -, which reads the secret from standard input; mesh restore takes AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY")
	}
	// Amazon names buckets in the host. Others have them in the path.
	endpoint, secure, lookup := "s3.amazonaws.com", true, minio.BucketLookupAuto
	if s.Endpoint != "" {
		u, err := url.Parse(s.Endpoint)
		if err != nil {
			return nil, mesh.Errorf(mesh.Invalid, "the endpoint of the S3 server cannot be read")
		}
		endpoint, secure, lookup = u.Host, u.Scheme == "https", minio.BucketLookupPath
	}
	core, err := minio.NewCore(endpoint, &minio.Options{
		Creds:  credentials.NewStaticV4(at.AccessKey.Reveal(), at.SecretKey.Reveal(), at.Session.Reveal()),
		Secure: secure, Region: s.Region, BucketLookup: lookup, MaxRetries: retries,
	})
	if err != nil {
		return nil, mesh.Errorf(mesh.Invalid, "the S3 server %s cannot be used: %w", endpoint, err)
	}
	return &bucket{Backups: b, S3Place: s, core: *core, host: endpoint}, nil
}

func (s *bucket) key(name string) string { return path.Join(s.Prefix, name) }

// fault returns an error of the server or of the way to it, for people.
func (s *bucket) fault(err error) error {
	if err == nil {
		return nil
	}
	var told *mesh.Error
	if errors.As(err, &told) {
		return told
	}
	var r minio.ErrorResponse
	if errors.As(err, &r) && r.Code != "" {
		switch r.Code {
		case "NoSuchBucket":
			return mesh.Errorf(mesh.NotFound, "the S3 server %s has no bucket %q", s.host, s.Bucket).WithHint("create it first: mesh creates no buckets")
		case "NoSuchKey":
			return mesh.Errorf(mesh.NotFound, "%s is gone", mesh.Clip(mesh.Visible(r.Key), 200))
		case "InvalidAccessKeyId", "SignatureDoesNotMatch", "InvalidAccessKey", "XAdminNoSuchAccessKey", "ExpiredToken", "InvalidToken":
			return mesh.Errorf(mesh.Denied, "the S3 server %s refuses the access key or the secret key (%s)", s.host, r.Code).WithHint("set them again: --access-key ID --secret-key -")
		case "AccessDenied", "AllAccessDisabled":
			return mesh.Errorf(mesh.Denied, "the access key may not use the bucket %q of the S3 server %s (%s)", s.Bucket, s.host, r.Code).WithHint("allow it to list, read, write and delete below %q", s.key(""))
		case "AuthorizationHeaderMalformed", "PermanentRedirect", "IllegalLocationConstraintException":
			return mesh.Errorf(mesh.Invalid, "the S3 server %s expects another region (%s)", s.host, r.Code).WithHint("name the region of the bucket: --region REGION")
		}
		if r.StatusCode == http.StatusForbidden || r.StatusCode == http.StatusUnauthorized || strings.HasSuffix(r.Code, "UserNotFound") {
			return mesh.Errorf(mesh.Denied, "the S3 server %s refuses the access key or the secret key (%s)", s.host, mesh.Clip(mesh.Visible(r.Code), 60)).WithHint("set them again: --access-key ID --secret-key -")
		}
		return mesh.Errorf(mesh.Unavailable, "the S3 server %s answered %s: %s", s.host, mesh.Clip(mesh.Visible(r.Code), 60), mesh.Clip(mesh.Visible(r.Message), 200))
	}
	var u *url.Error
	if errors.As(err, &u) {
		err = u.Err // the URL is long, and says nothing new
	}
	return mesh.Errorf(mesh.Unavailable, "the S3 server %s does not answer: %w", s.host, err).WithHint("see whether it is reached from this machine")
}

// lasting reports whether an error comes again when the request does.
func lasting(err error) bool {
	var told *mesh.Error
	if errors.As(err, &told) {
		return true
	}
	var r minio.ErrorResponse
	if !errors.As(err, &r) || r.Code == "" {
		return false
	}
	return r.StatusCode < http.StatusInternalServerError && r.StatusCode != http.StatusTooManyRequests && r.StatusCode != http.StatusRequestTimeout && r.Code != "RequestTimeout" && r.Code != "SlowDown"
}

// retry calls fn until it succeeds, its error is a lasting one, or Patience is over.
func (s *bucket) retry(ctx context.Context, limit time.Duration, fn func(context.Context) error) error {
	begun, wait := s.Now(), time.Second
	for {
		actx, cancel := context.WithTimeout(ctx, limit)
		err := fn(actx)
		cancel()
		if err == nil || lasting(err) || ctx.Err() != nil || s.Now().Sub(begun)+wait > s.Patience {
			return s.fault(err)
		}
		s.Logger.Debug("trying again at the S3 server", "host", s.host, "err", err)
		t := time.NewTimer(wait)
		select {
		case <-t.C:
		case <-ctx.Done():
			t.Stop()
			return context.Cause(ctx)
		}
		wait = min(2*wait, 30*time.Second)
	}
}

// prepare lists what is there: that needs the server, the bucket and the credentials.
func (s *bucket) prepare(ctx context.Context) error {
	_, err := s.list(ctx, "")
	return err
}

func (s *bucket) list(ctx context.Context, prefix string) (out []item, err error) {
	ctx, cancel := context.WithTimeout(ctx, askTime)
	defer cancel()
	all := s.key("")
	if all != "" {
		all += "/"
	}
	for o := range s.core.Client.ListObjects(ctx, s.Bucket, minio.ListObjectsOptions{Prefix: all + prefix}) {
		if o.Err != nil {
			return nil, s.fault(o.Err)
		}
		if !strings.HasSuffix(o.Key, "/") {
			out = append(out, item{strings.TrimPrefix(o.Key, all), o.Size, o.LastModified})
		}
	}
	return out, nil
}

func (s *bucket) open(ctx context.Context, name string) (io.ReadCloser, error) {
	ctx, cancel := context.WithCancelCause(ctx)
	o := &object{s: s, ctx: ctx, cancel: cancel, stalled: time.AfterFunc(s.Patience, func() { cancel(errStalled) })}
	var err error
	if o.body, _, _, err = s.core.GetObject(ctx, s.Bucket, s.key(name), minio.GetObjectOptions{}); err != nil {
		err = cmp.Or(ended(ctx), err)
		o.stalled.Stop()
		cancel(nil)
		return nil, s.fault(err)
	}
	return o, nil
}

var errStalled = errors.New("it stopped sending")

// object is a file that is read from a server. Its errors are fit for people.
type object struct {
	s       *bucket
	ctx     context.Context
	body    io.ReadCloser
	cancel  context.CancelCauseFunc
	stalled *time.Timer
}

func (o *object) Close() error {
	o.stalled.Stop()
	o.cancel(nil)
	return o.body.Close()
}

func (o *object) Read(p []byte) (int, error) {
	o.stalled.Reset(o.s.Patience) // whoever reads may be slow between two reads
	n, err := o.body.Read(p)
	o.stalled.Stop()
	if err != nil && !errors.Is(err, io.EOF) {
		err = o.s.fault(cmp.Or(ended(o.ctx), err))
	}
	return n, err
}

func (s *bucket) put(ctx context.Context, name string, data []byte) error {
	sum := sha256.Sum256(data)
	check := md5.Sum(data) //nolint:gosec // as above
	return s.retry(ctx, askTime, func(ctx context.Context) error {
		_, err := s.core.PutObject(ctx, s.Bucket, s.key(name), bytes.NewReader(data), int64(len(data)),
			base64.StdEncoding.EncodeToString(check[:]), hex.EncodeToString(sum[:]), minio.PutObjectOptions{ContentType: "application/json"})
		return err
	})
}

func (s *bucket) remove(ctx context.Context, name string) error {
	ctx, cancel := context.WithTimeout(ctx, askTime)
	defer cancel()
	return s.fault(s.core.RemoveObject(ctx, s.Bucket, s.key(name), minio.RemoveObjectOptions{}))
}

// forget ends uploads that a killed process has left. They are not in any list of files, and
// cost money.
func (s *bucket) forget(ctx context.Context, before time.Time, accept func(string) bool) error {
	ctx, cancel := context.WithTimeout(ctx, askTime)
	defer cancel()
	prefix := s.key("")
	if prefix != "" {
		prefix += "/"
	}
	var marker, uploadMarker string
	for {
		page, err := s.core.ListMultipartUploads(ctx, s.Bucket, prefix, marker, uploadMarker, "", 1000)
		if err != nil {
			return s.fault(err)
		}
		for _, u := range page.Uploads {
			if accept(strings.TrimPrefix(u.Key, prefix)) && u.Initiated.Before(before) {
				err = errors.Join(err, s.fault(s.core.AbortMultipartUpload(ctx, s.Bucket, u.Key, u.UploadID)))
			}
		}
		if marker, uploadMarker = page.NextKeyMarker, page.NextUploadIDMarker; err != nil || !page.IsTruncated || marker == "" {
			return err
		}
	}
}

func (s *bucket) create(ctx context.Context, name string) sink {
	return &upload{bucket: s, ctx: ctx, name: s.key(name), part: newPart(s.Temp)}
}

// upload is a file that becomes an object. What fits into one part is put as a whole when it
// is committed. More goes in parts of one size, as some servers demand, of which the last
// may be smaller.
type upload struct {
	*bucket
	ctx  context.Context
	name string
	part *part
	id   string // of the upload in parts; empty: none has begun
	done []minio.CompletePart
	size int64
	err  error
}

func (u *upload) Write(p []byte) (n int, err error) {
	for len(p) > 0 && u.err == nil {
		if u.part.size == u.PartSize {
			if u.err = u.send(u.ctx); u.err != nil {
				break
			}
		}
		k := min(int64(len(p)), u.PartSize-u.part.size)
		if _, u.err = u.part.Write(p[:k]); u.err != nil {
			u.err = mesh.Errorf(mesh.Unavailable, "a part of the upload cannot be stored until it is sent: %w", u.err).WithHint("free space: a part needs up to %d MB in %s", u.PartSize>>20, u.part.where())
			break
		}
		n, p = n+int(k), p[k:]
	}
	u.size += int64(n)
	return n, u.err
}

// send sends the part, and empties it.
func (u *upload) send(ctx context.Context) error {
	if u.id == "" {
		err := u.retry(ctx, askTime, func(ctx context.Context) (err error) {
			u.id, err = u.core.NewMultipartUpload(ctx, u.Bucket, u.name, minio.PutObjectOptions{ContentType: contentType})
			return err
		})
		if err != nil {
			return err
		}
	}
	number := len(u.done) + 1
	err := u.retry(ctx, partTime, func(ctx context.Context) error {
		r, sum, check := u.part.reader()
		p, err := u.core.PutObjectPart(ctx, u.Bucket, u.name, u.id, number, r, u.part.size, minio.PutObjectPartOptions{Md5Base64: check, Sha256Hex: sum})
		if err == nil {
			u.done = append(u.done, minio.CompletePart{PartNumber: number, ETag: p.ETag})
		}
		return err
	})
	if err != nil {
		return err
	}
	return u.part.reset()
}

const contentType = "application/octet-stream"

func (u *upload) commit(ctx context.Context) error {
	if u.err != nil {
		return u.err
	}
	if u.id == "" {
		return u.retry(ctx, partTime, func(ctx context.Context) error {
			r, sum, check := u.part.reader()
			_, err := u.core.PutObject(ctx, u.Bucket, u.name, r, u.part.size, check, sum, minio.PutObjectOptions{ContentType: contentType})
			return err
		})
	}
	if err := u.send(ctx); err != nil {
		return err
	}
	err := u.retry(ctx, partTime, func(ctx context.Context) error {
		_, err := u.core.CompleteMultipartUpload(ctx, u.Bucket, u.name, u.id, u.done, minio.PutObjectOptions{})
		return err
	})
	if err != nil {
		// The answer to an attempt that succeeded may have been lost.
		if o, serr := u.core.StatObject(ctx, u.Bucket, u.name, minio.StatObjectOptions{}); serr != nil || o.Size != u.size {
			return err
		}
	}
	u.id = ""
	return nil
}

func (u *upload) abort() {
	u.part.close()
	if u.id == "" {
		return
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(u.ctx), cleanTime)
	defer cancel()
	if err := u.core.AbortMultipartUpload(ctx, u.Bucket, u.name, u.id); err != nil {
		u.Logger.Warn("an upload was not ended at the S3 server: the next backup after a day does it", "host", u.host, "err", u.fault(err))
	}
	u.id = ""
}
