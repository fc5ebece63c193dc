-- Which of the registrants that is: it locks nobody, and mostly nobody has changed.
SELECT ref FROM changed
