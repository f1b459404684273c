create table fruit (name text primary key, number integer);
insert into fruit values ('apple', 3), ('pear', 14), ('fig', 159), ('plum', 35);
create index numbers on fruit (number);
begin; update fruit set number = number * 2 where name like 'p%'; commit;
select name, number from fruit order by number desc;
select count(*), sum(number), json_group_array(name) from fruit;
pragma integrity_check;
