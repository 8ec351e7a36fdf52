"""Facts: plain data that probes gather and the resolver judges. Nothing here touches the machine."""
