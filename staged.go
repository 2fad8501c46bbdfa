package mesh

import "time"

// Staged is a release that is ready beside the current one: its instances of web run, and
// switch makes it current.
type Staged struct {
	Release    ReleaseNumber
	Deployment DeploymentNumber // that started its instances
	By         KeyName
	Since      time.Time
	Until      time.Time // then it is removed
}

// StagedTime is how long a staged release waits for switch.
const StagedTime = 24 * time.Hour
