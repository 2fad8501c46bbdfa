module mesh

go 1.26.0
