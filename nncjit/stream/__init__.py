"""What encoder and decoder share of a stream: data units and their parts, tensor mapping, masks, the metadata unit."""
