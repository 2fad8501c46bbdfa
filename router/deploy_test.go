package router_test

import (
	"mesh/deploy/fleet"
	"mesh/router"
)

var _ fleet.Router = (*router.Router)(nil)
