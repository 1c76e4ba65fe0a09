import sigma
