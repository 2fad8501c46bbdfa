package deploy

// MatchAny tells whether a path matches one of the patterns of watch=.
var MatchAny = matchAny

// ReadTreeManifest reads what a tree says.
var ReadTreeManifest = manifest
