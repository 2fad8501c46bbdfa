package builder

import (
	"cmp"
	"fmt"
	"slices"
	"strings"

	"github.com/moby/buildkit/frontend/dockerfile/parser"
	"github.com/moby/buildkit/solver/pb"
	"github.com/moby/buildkit/util/apicaps"
	"google.golang.org/protobuf/reflect/protoreflect"

	"mesh"
)

// mesh brings the newest Dockerfile frontend to any engine. An old engine reads the
// fields of an operation that it knows and silently drops the rest: "COPY --exclude"
// copies everything (moby/buildkit#4720). So every field of every operation is
// looked up here, and the build is refused, before it starts, if the engine does not
// list the capability.

// engineCaps are the capabilities that an engine lists.
type engineCaps struct{ set apicaps.CapSet }

// has reports whether an engine has a capability. No engine lists the one for
// symbolic modes; gc.freespacefilter came with it, in BuildKit v0.17.
func (c engineCaps) has(id apicaps.CapID) bool {
	if id == pb.CapFileCopyModeStringFormat {
		id = pb.CapGCFreeSpaceFilter
	}
	return c.set.Contains(id)
}

// dockerOf is the first Docker with a capability. Those that are not listed are in
// Docker 20.10. From the tags of moby/buildkit and vendor.mod of moby/moby: 23.0 has
// BuildKit v0.10, 24.0 v0.11, 25.0 v0.12, 26.0 v0.13, 27.0 v0.14, 27.4 v0.17, 28.0
// v0.20, 28.1 v0.21, 28.2 v0.22, 28.4 v0.24, 28.5 v0.25, 29.1 v0.26.
var dockerOf = map[apicaps.CapID]string{
	pb.CapFileCopyIncludeExcludePatterns: "23", pb.CapSourceGitSubdir: "23", pb.CapSourceLocalDiffer: "23",
	pb.CapDiffOp: "23", pb.CapMergeOp: "23", pb.CapExecMetaCgroupParent: "23", pb.CapExecMetaUlimit: "23",
	pb.CapExecMountTmpfsSize: "23", pb.CapExecSecretEnv: "23", pb.CapFileRmNoFollowSymlink: "23", pb.CapRemoteCacheGHA: "23",
	pb.CapExecMetaRemoveMountStubsRecursive: "24", pb.CapSourceImageLayerLimit: "24", pb.CapSourceOCILayout: "24", pb.CapSourcePolicy: "24",
	pb.CapAnnotations: "24", pb.CapAttestations: "24", pb.CapSourceDateEpoch: "24", pb.CapRemoteCacheS3: "24", pb.CapRemoteCacheAzBlob: "24",
	pb.CapExecMountContentCache: "26", pb.CapMultipleExporters: "26",
	pb.CapFileCopyAlwaysReplaceExistingDestPaths: "27",
	pb.CapExecValidExitCode:                      "27.4", pb.CapFileCopyModeStringFormat: "27.4", pb.CapGCFreeSpaceFilter: "27.4",
	pb.CapFileSymlinkCreate: "28", pb.CapExecMetaCDI: "28", pb.CapHistoryFilters: "28",
	pb.CapSessionExporter: "28.1", pb.CapSourceHTTPAuth: "28.1", pb.CapSourceHTTPHeader: "28.1", pb.CapSourceMetadataTransfer: "28.1",
	pb.CapSourceGitChecksum: "28.2", pb.CapSourceGitSkipSubmodules: "28.4", pb.CapSourceImageChecksum: "28.5",
	pb.CapFileCopyRequiredPaths: "29.1", pb.CapSourceGitSignatureVerify: "29.1", pb.CapSourcePolicySession: "29.1",
	pb.CapSourceHTTPSignatureVerify: newest, pb.CapSourceImageBlob: newest, pb.CapSourceGitMTime: newest, pb.CapSourceGitBundle: newest,
	pb.CapSourceGitCheckoutBundle: newest, pb.CapSourceGitFetchByCommit: newest, pb.CapExecMetaLinuxResources: newest,
	pb.CapExecMetaNetworkProxy: newest, pb.CapPassthroughOp: newest,
}

// newest stands for capabilities that no Docker had when this was written.
const newest = ""

// need is the capability that a field of an operation needs.
type need struct {
	capability apicaps.CapID // empty: Docker 20.10 is enough
	feature    string        // as written in a Dockerfile
}

// needs has a row for each field of each message of an operation, by MESSAGE.FIELD,
// and for each value of an enum but the first, by ENUM.VALUE. Attributes of sources
// count as fields.
var needs = map[string]need{
	"Op.inputs": {}, "Op.exec": {}, "Op.source": {}, "Op.file": {}, "Op.build": {}, "Op.platform": {}, "Op.constraints": {},
	"Op.merge": {pb.CapMergeOp, "--link"}, "Op.diff": {pb.CapDiffOp, "a difference of layers"}, "Op.passthrough": {pb.CapPassthroughOp, "an operation of several results"},
	"Platform.Architecture": {}, "Platform.OS": {}, "Platform.Variant": {}, "Platform.OSVersion": {}, "Platform.OSFeatures": {},
	"Input.digest": {}, "Input.index": {}, "WorkerConstraints.filter": {},

	"ExecOp.meta": {}, "ExecOp.mounts": {}, "ExecOp.network": {}, "ExecOp.security": {},
	"ExecOp.secretenv":  {pb.CapExecSecretEnv, "--mount=type=secret,env="},
	"ExecOp.cdiDevices": {pb.CapExecMetaCDI, "--device"},
	"SecretEnv.ID":      {}, "SecretEnv.name": {}, "SecretEnv.optional": {}, "CDIDevice.name": {}, "CDIDevice.optional": {},
	"Meta.args": {}, "Meta.env": {}, "Meta.cwd": {}, "Meta.user": {}, "Meta.proxy_env": {}, "Meta.extraHosts": {}, "Meta.hostname": {},
	"Meta.ulimit":       {pb.CapExecMetaUlimit, "a ulimit"},
	"Meta.cgroupParent": {pb.CapExecMetaCgroupParent, "a control group"},
	// Set in each step. Without it an empty mount folder may stay in the image.
	"Meta.removeMountStubsRecursive": {},
	"Meta.validExitCodes":            {pb.CapExecValidExitCode, "other exit codes than 0"},
	"HostIP.Host":                    {}, "HostIP.IP": {}, "Ulimit.Name": {}, "Ulimit.Soft": {}, "Ulimit.Hard": {},
	"ProxyEnv.http_proxy": {}, "ProxyEnv.https_proxy": {}, "ProxyEnv.ftp_proxy": {}, "ProxyEnv.no_proxy": {}, "ProxyEnv.all_proxy": {},
	"NetMode.HOST": {}, "NetMode.NONE": {}, "SecurityMode.INSECURE": {},
	"Mount.input": {}, "Mount.selector": {}, "Mount.dest": {}, "Mount.output": {}, "Mount.readonly": {}, "Mount.mountType": {}, "Mount.TmpfsOpt": {},
	"Mount.cacheOpt": {}, "Mount.secretOpt": {}, "Mount.SSHOpt": {}, "Mount.resultID": {},
	"Mount.contentCache": {pb.CapExecMountContentCache, "a mount that is cached by its content"},
	"MountType.SECRET":   {}, "MountType.SSH": {}, "MountType.CACHE": {}, "MountType.TMPFS": {}, "MountContentCache.ON": {}, "MountContentCache.OFF": {},
	"TmpfsOpt.size": {pb.CapExecMountTmpfsSize, "--mount=type=tmpfs,size="},
	"CacheOpt.ID":   {}, "CacheOpt.sharing": {}, "CacheSharingOpt.PRIVATE": {}, "CacheSharingOpt.LOCKED": {},
	"SecretOpt.ID": {}, "SecretOpt.uid": {}, "SecretOpt.gid": {}, "SecretOpt.mode": {}, "SecretOpt.optional": {},
	"SSHOpt.ID": {}, "SSHOpt.uid": {}, "SSHOpt.gid": {}, "SSHOpt.mode": {}, "SSHOpt.optional": {},

	"SourceOp.identifier": {}, "SourceOp.attrs": {},
	pb.AttrKeepGitDir: {}, pb.AttrFullRemoteURL: {}, pb.AttrAuthHeaderSecret: {}, pb.AttrAuthTokenSecret: {}, pb.AttrKnownSSHHosts: {}, pb.AttrMountSSHSock: {},
	pb.AttrGitChecksum:                        {pb.CapSourceGitChecksum, "--checksum of a git repository"},
	pb.AttrGitSkipSubmodules:                  {pb.CapSourceGitSkipSubmodules, "a git repository without its submodules"},
	pb.AttrGitMTime:                           {pb.CapSourceGitMTime, "the times of a git repository"},
	pb.AttrGitFetchByCommit:                   {pb.CapSourceGitFetchByCommit, "a commit of a git repository"},
	pb.AttrGitBundle:                          {pb.CapSourceGitBundle, "a git bundle"},
	pb.AttrGitCheckoutBundle:                  {pb.CapSourceGitCheckoutBundle, "a git bundle"},
	pb.AttrGitSignatureVerifyPubKey:           {pb.CapSourceGitSignatureVerify, "a signature of a git repository"},
	pb.AttrGitSignatureVerifyRejectExpired:    {pb.CapSourceGitSignatureVerify, "a signature of a git repository"},
	pb.AttrGitSignatureVerifyRequireSignedTag: {pb.CapSourceGitSignatureVerify, "a signature of a git repository"},
	pb.AttrGitSignatureVerifyIgnoreSignedTag:  {pb.CapSourceGitSignatureVerify, "a signature of a git repository"},
	pb.AttrLocalSessionID:                     {}, pb.AttrLocalUniqueID: {}, pb.AttrIncludePatterns: {}, pb.AttrFollowPaths: {}, pb.AttrExcludePatterns: {}, pb.AttrSharedKeyHint: {},
	pb.AttrMetadataTransfer: {pb.CapSourceMetadataTransfer, "a tree without its files"}, pb.AttrMetadataTransferExclude: {pb.CapSourceMetadataTransfer, "a tree without its files"},
	// It only saves time: it selects how the file sync finds changes.
	pb.AttrLocalDiffer:           {},
	pb.AttrLLBDefinitionFilename: {},
	pb.AttrHTTPChecksum:          {}, pb.AttrHTTPFilename: {}, pb.AttrHTTPPerm: {}, pb.AttrHTTPUID: {}, pb.AttrHTTPGID: {},
	pb.AttrHTTPAuthHeaderSecret:      {pb.CapSourceHTTPAuth, "a URL with a secret"},
	pb.AttrHTTPHeaderPrefix:          {pb.CapSourceHTTPHeader, "a URL with headers"},
	pb.AttrHTTPSignatureVerifyPubKey: {pb.CapSourceHTTPSignatureVerify, "a signature of a URL"},
	pb.AttrHTTPSignatureVerify:       {pb.CapSourceHTTPSignatureVerify, "a signature of a URL"},
	pb.AttrImageResolveMode:          {}, pb.AttrImageRecordType: {},
	pb.AttrImageLayerLimit:    {pb.CapSourceImageLayerLimit, "some layers of an image"},
	pb.AttrImageChecksum:      {pb.CapSourceImageChecksum, "a checksum of an image"},
	pb.AttrOCILayoutSessionID: {pb.CapSourceOCILayout, "an image in a folder"}, pb.AttrOCILayoutStoreID: {pb.CapSourceOCILayout, "an image in a folder"},
	pb.AttrOCILayoutLayerLimit: {pb.CapSourceOCILayout, "an image in a folder"},

	"FileOp.actions": {}, "FileAction.input": {}, "FileAction.secondaryInput": {}, "FileAction.output": {}, "FileAction.copy": {}, "FileAction.mkfile": {},
	"FileAction.mkdir": {}, "FileAction.rm": {}, "FileAction.symlink": {pb.CapFileSymlinkCreate, "a new link"},
	"FileActionCopy.src": {}, "FileActionCopy.dest": {}, "FileActionCopy.owner": {}, "FileActionCopy.mode": {}, "FileActionCopy.followSymlink": {},
	"FileActionCopy.dirCopyContents": {}, "FileActionCopy.attemptUnpackDockerCompatibility": {}, "FileActionCopy.createDestPath": {},
	"FileActionCopy.allowWildcard": {}, "FileActionCopy.allowEmptyWildcard": {}, "FileActionCopy.timestamp": {},
	"FileActionCopy.include_patterns":               {pb.CapFileCopyIncludeExcludePatterns, "--parents"},
	"FileActionCopy.exclude_patterns":               {pb.CapFileCopyIncludeExcludePatterns, "--exclude"},
	"FileActionCopy.alwaysReplaceExistingDestPaths": {pb.CapFileCopyAlwaysReplaceExistingDestPaths, "a folder over a file"},
	"FileActionCopy.modeStr":                        {pb.CapFileCopyModeStringFormat, "--chmod with letters"},
	// This is only an error for a missing path below --parents. Without it nothing
	// is copied that should not be.
	"FileActionCopy.required_paths": {},
	"FileActionMkFile.path":         {}, "FileActionMkFile.mode": {}, "FileActionMkFile.data": {}, "FileActionMkFile.owner": {}, "FileActionMkFile.timestamp": {},
	"FileActionSymlink.oldpath": {}, "FileActionSymlink.newpath": {}, "FileActionSymlink.owner": {}, "FileActionSymlink.timestamp": {},
	"FileActionMkDir.path": {}, "FileActionMkDir.mode": {}, "FileActionMkDir.makeParents": {}, "FileActionMkDir.owner": {}, "FileActionMkDir.timestamp": {},
	"FileActionRm.path": {}, "FileActionRm.allowNotFound": {}, "FileActionRm.allowWildcard": {},
	"ChownOpt.user": {}, "ChownOpt.group": {}, "UserOpt.byName": {}, "UserOpt.byID": {}, "NamedUserOpt.name": {}, "NamedUserOpt.input": {},
	"BuildOp.builder": {}, "BuildOp.inputs": {}, "BuildOp.def": {}, "BuildOp.attrs": {}, "BuildInput.input": {},
	"MergeOp.inputs": {}, "MergeInput.input": {}, "DiffOp.lower": {}, "DiffOp.upper": {}, "LowerDiffInput.input": {}, "UpperDiffInput.input": {},
	"PassthroughOp.id": {}, "PassthroughOp.outputs": {},
}

// usesOf calls fn for each field that an operation sets, with its name in needs.
func usesOf(m protoreflect.Message, fn func(name string)) {
	m.Range(func(f protoreflect.FieldDescriptor, v protoreflect.Value) bool {
		name := string(m.Descriptor().Name()) + "." + string(f.Name())
		fn(name)
		each := func(v protoreflect.Value) {
			switch {
			case f.Kind() == protoreflect.EnumKind:
				if v.Enum() != 0 {
					value := f.Enum().Values().ByNumber(v.Enum())
					if value != nil {
						fn(string(f.Enum().Name()) + "." + string(value.Name()))
					}
				}
			case f.Kind() == protoreflect.MessageKind && name != "BuildOp.def":
				usesOf(v.Message(), fn)
			}
		}
		switch {
		case name == "SourceOp.attrs":
			v.Map().Range(func(k protoreflect.MapKey, _ protoreflect.Value) bool {
				attr := k.String()
				if strings.HasPrefix(attr, pb.AttrHTTPHeaderPrefix) {
					attr = pb.AttrHTTPHeaderPrefix
				}
				fn(attr)
				return true
			})
		case f.IsMap():
		case f.IsList():
			for i := range v.List().Len() {
				each(v.List().Get(i))
			}
		default:
			each(v)
		}
		return true
	})
}

// check refuses an operation that the engine would not do as written. line is its
// line in the Dockerfile, 0 if unknown.
func (m marked) check(op *pb.Op, meta *pb.OpMetadata, line int) error {
	var missing []need
	usesOf(op.ProtoReflect(), func(name string) {
		if n, known := needs[name]; !known {
			missing = append(missing, need{feature: name})
		} else if n.capability != "" && !m.caps.has(n.capability) {
			missing = append(missing, n)
		}
	})
	for id, wanted := range meta.GetCaps() {
		_, later := dockerOf[apicaps.CapID(id)]
		if _, harmless := harmlessCaps[apicaps.CapID(id)]; wanted && later && !harmless && !m.caps.has(apicaps.CapID(id)) &&
			!slices.ContainsFunc(missing, func(n need) bool { return n.capability == apicaps.CapID(id) }) {
			missing = append(missing, need{capability: apicaps.CapID(id), feature: id})
		}
	}
	if len(missing) == 0 {
		return nil
	}
	slices.SortFunc(missing, func(a, b need) int { return cmp.Compare(a.feature, b.feature) })
	return m.job.df.unsupported(line, missing[0])
}

// harmlessCaps do not change the result of a build.
var harmlessCaps = map[apicaps.CapID]bool{pb.CapFileCopyRequiredPaths: true, pb.CapSourceLocalDiffer: true, pb.CapMetaDescription: true, pb.CapMetaExportCache: true}

// checkFlags refuses flags that the frontend itself silently drops for an old
// engine.
func (d *dockerfile) checkFlags(caps engineCaps) error {
	for _, n := range d.nodes() {
		for _, f := range n.Flags {
			if strings.HasPrefix(f, "--device") && strings.EqualFold(n.Value, "run") && !caps.has(pb.CapExecMetaCDI) {
				return d.unsupported(n.StartLine, needs["ExecOp.cdiDevices"])
			}
		}
	}
	return nil
}

// nodes returns the instructions.
func (d *dockerfile) nodes() []*parser.Node {
	res, err := parser.Parse(strings.NewReader(string(d.text)))
	if err != nil {
		return nil
	}
	return res.AST.Children
}

// unsupported is the error that names the instruction and the Docker that it needs.
func (d *dockerfile) unsupported(line int, n need) error {
	what, where, hint := n.feature, d.shown+": ", "update Docker on the server, or rewrite the instruction without it"
	if line > 0 {
		where = fmt.Sprintf("%s:%d: ", d.shown, line)
	}
	for _, i := range d.nodes() {
		if line < i.StartLine || line > i.EndLine {
			continue
		}
		flag := func(name string) string {
			for _, f := range i.Flags {
				if f == name || strings.HasPrefix(f, name+"=") {
					return f
				}
			}
			return ""
		}
		if n.feature == "--parents" && flag("--parents") == "" && flag("--exclude") != "" {
			what = "--exclude"
		}
		switch {
		case n.capability == pb.CapFileCopyModeStringFormat && flag("--chmod") != "":
			what, hint = flag("--chmod"), "update Docker on the server, or write the mode as a number: --chmod=644"
		case what == "--parents":
			hint = "update Docker on the server, or copy each folder by name"
		case what == "--exclude":
			hint = "update Docker on the server, or exclude the files in .dockerignore"
		case n.capability == pb.CapExecSecretEnv:
			hint = "update Docker on the server, or read the file: RUN --mount=type=secret,id=NAME NAME=$(cat /run/secrets/NAME) COMMAND"
		}
		what = strings.ToUpper(i.Value) + " " + what
		break
	}
	version := "a later Docker"
	if v := dockerOf[n.capability]; v != newest {
		version = "Docker " + v + " or later"
	}
	return &refusal{mesh.Errorf(mesh.Failed, "%s%s needs %s on the server", where, what, version).WithHint("%s", hint)}
}

// refusal is the reason why a build was refused before the engine was asked.
type refusal struct{ told *mesh.Error }

// Error is the text that people see.
func (r *refusal) Error() string { return r.told.Error() }

// locate is the line of an operation in the Dockerfile, 0 if unknown.
func locate(def *pb.Definition, d string) int {
	for _, l := range def.GetSource().GetLocations()[d].GetLocations() {
		for _, r := range l.Ranges {
			if r.Start != nil {
				return int(r.Start.Line)
			}
		}
	}
	return 0
}
