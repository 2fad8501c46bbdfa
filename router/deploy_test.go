package router_test

import (
	"mesh/deploy"
	"mesh/router"
)

var _ deploy.Router = (*router.Router)(nil)
